"""The public names of the package, what is installed, and (slow) an installation in an empty environment."""

import runpy
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

import colearn_jax

ROOT = Path(__file__).parents[1]
SLOW_TO_LOAD = ("jax", "flax", "tensorflow_datasets", "grain", "sklearn")


def test_import_is_quick_and_lists_the_public_names():
  code = f"""
import sys, colearn_jax
assert set(colearn_jax.__all__) <= set(dir(colearn_jax))
colearn_jax.Modality, colearn_jax.Task, colearn_jax.InputError
print([name for name in {SLOW_TO_LOAD} if name in sys.modules])"""
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
  assert (done.stdout, done.stderr) == ("[]\n", "")


def test_public_names_are_the_objects_that_they_stand_for():
  from colearn_jax import config, types
  from colearn_jax.training import run

  assert colearn_jax.train is run.run
  assert colearn_jax.load_config is config.load
  assert colearn_jax.InputError is types.InputError
  with pytest.raises(AttributeError, match="colearn_jax.*nothing"):
    colearn_jax.nothing  # noqa: B018


def test_load_model_is_public():
  from colearn_jax.deploy import load

  assert colearn_jax.load_model is load.load_model


def test_type_checkers_see_the_names_that_are_loaded_lazily():
  """The block for type checkers names the same objects as the table."""
  lines = (ROOT / "colearn_jax/__init__.py").read_text().splitlines()
  typed = " ".join(line for line in lines if line.startswith("  from colearn_jax"))
  for module, name in set(colearn_jax._PUBLIC.values()):
    assert f"from {module} import" in typed and name in typed
  assert set(colearn_jax.__all__) == {*colearn_jax._PUBLIC, "__version__"}


def test_every_file_beside_the_modules_is_installed():
  patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
  for package, folder in (("colearn_jax", "colearn_jax"), ("colearn_jax.datasets", "data_builders")):
    matched = {path for pattern in patterns[package] for path in (ROOT / folder).glob(pattern)}
    there = {
      path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    assert {path for path in there if path.suffix != ".py"} == matched - {
      p for p in matched if p.suffix == ".py"
    }


def test_version_is_that_of_the_citation():
  assert f"\nversion: {colearn_jax.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_every_dependency_has_a_lower_bound():
  """Those of the extras too; an extra of a package that is bounded already has none of its own."""
  project = tomllib.loads((ROOT / "pyproject.toml").read_text())
  extras = project["project"]["optional-dependencies"]
  given = [
    *project["project"]["dependencies"],
    *project["build-system"]["requires"],
    *sum(extras.values(), []),
  ]
  bounded = {name.split(">=")[0].split("[")[0] for name in given if ">=" in name} | {"colearn_jax"}
  assert not {
    name for name in given if ">=" not in name and (name.split("[")[0] not in bounded or "[" not in name)
  }


@pytest.mark.slow
def test_the_wheel_trains_in_an_empty_environment(tmp_path):
  """An sdist, from it a wheel, installed; minutes: `pytest -m slow tests/test_packaging.py`."""
  call = lambda *command, cwd=tmp_path: (
    subprocess.run(
      [str(part) for part in command], cwd=cwd, check=True, text=True, capture_output=True
    ).stdout
  )
  call(sys.executable, "-m", "build", "--outdir", tmp_path / "dist", ROOT)
  (_,), (wheel,) = (tmp_path / "dist").glob("*.tar.gz"), (tmp_path / "dist").glob("*.whl")
  names = set(zipfile.ZipFile(wheel).namelist())
  for name in (
    "py.typed",
    "encoders/README.md",
    "configs/lfmc.py",
    "datasets/lfmc/checksums.tsv",
    "datasets/lfmc/CITATIONS.bib",
    "datasets/synthetic/README.md",
  ):
    assert f"colearn_jax/{name}" in names
  assert {name.split("/")[0] for name in names} == {
    "colearn_jax",
    f"colearn_jax-{colearn_jax.__version__}.dist-info",
  }
  assert any(name.endswith("licenses/LICENSE") for name in names)

  call(sys.executable, "-m", "venv", tmp_path / "env")
  python = tmp_path / "env/bin/python"
  call(python, "-m", "pip", "install", "--quiet", wheel)
  call(python, "-c", "import colearn_jax, colearn_jax.configs.lfmc")
  short = (
    "--config.train.max_epochs=1",
    "--noconfig.baseline",
    f"--config.data.data_dir={tmp_path / 'data'}",
  )
  out = call(python, "-m", "colearn_jax.main", "--config=synthetic", f"--workdir={tmp_path / 'run'}", *short)
  assert "S2_S2VI" in out and (tmp_path / "run/results.json").is_file()


def test_links_of_the_readme_lead_to_pages_of_the_site():
  hooks = runpy.run_path(str(ROOT / "docs/hooks.py"))
  page = lambda src, url, text="": SimpleNamespace(
    src_uri=src, url=url, content_string=text, is_documentation_page=lambda: src.endswith(".md")
  )
  files = [
    page("index.md", "./", '--8<-- "README.md"'),
    page("guides/folder.md", "guides/folder/", '# Own\n\n--8<-- "data_builders/folder/README.md"\n'),
    page("guides/speed.md", "guides/speed/"),
    page("images/a.png", "images/a.png"),
  ]
  html = (
    '<a href="docs/guides/speed.md#start"> <a href="data_builders/folder/README.md"> <a href="https://a.b">'
    '<img src="docs/images/a.png"> <a href="LICENSE">'
  )
  first, other = (SimpleNamespace(file=file) for file in files[:2])
  assert hooks["on_page_content"](html, other, None, files) == html
  assert hooks["on_page_content"](html, first, None, files) == (
    '<a href="guides/speed/#start"> <a href="guides/folder/"> <a href="https://a.b">'
    '<img src="images/a.png"> <a href="LICENSE">'
  )
