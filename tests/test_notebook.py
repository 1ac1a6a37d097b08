"""The notebook runs from the first cell to the last, and is committed with its plots."""

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "examples/quickstart.ipynb"
nbformat = pytest.importorskip("nbformat")


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
  client = pytest.importorskip("nbclient")
  pytest.importorskip("ipykernel")
  pytest.importorskip("matplotlib")
  monkeypatch.setenv("COLEARN_JAX_EPOCHS", "1")
  monkeypatch.setenv("TMPDIR", str(tmp_path))
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  book = nbformat.read(NOTEBOOK, 4)
  resources = {"metadata": {"path": tmp_path}}
  client.NotebookClient(book, timeout=300, kernel_name="python3", resources=resources).execute()
  assert plots(book) == 4


def test_the_notebook_has_its_outputs():
  book = nbformat.read(NOTEBOOK, 4)
  assert plots(book) == 4
  code = [cell for cell in book.cells if cell.cell_type == "code"]
  assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
  assert not [out for cell in code for out in cell.outputs if out.get("name") == "stderr"]


def plots(book):
  return sum("image/png" in out.get("data", {}) for cell in book.cells for out in cell.get("outputs", ()))
