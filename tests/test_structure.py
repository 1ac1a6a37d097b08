"""Imports run one way. This test reads the source with `ast`; it imports nothing."""

import ast
import functools
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {
  "colearn_jax.configs": "configs",
  "colearn_jax.datasets": "data_builders",
  "colearn_jax": "colearn_jax",
}

# Every room of the package, bottom to top, with the rooms that it may import. A room is a module or a folder
# of `colearn_jax`; `configs` and `datasets` are the folders `configs` and `data_builders`.
ROOMS = {
  "types": "",
  "rules": "types",
  "dates": "types",
  "plan": "",
  "storage": "types",
  "parallel": "types",
  "nn": "types rules parallel",
  "objectives": "types nn parallel",
  "encoders": "types rules nn parallel",
  "weights": "types storage nn encoders",
  "methods": "types rules parallel nn objectives encoders",
  "data": "types rules storage parallel nn",
  "evaluation": "types storage parallel data",
  "inspection": "types data",
  "datasets": "types rules dates storage parallel data",
  "schema_pages": "rules",
  "schema": "types rules nn encoders methods data schema_pages",
  "values": "types rules schema",
  "configs": "types rules plan encoders methods schema values",
  "constraints": "rules methods values",
  "effects": "types rules encoders methods datasets schema schema_pages",
  "config": (
    "types rules storage nn encoders weights methods data datasets schema values configs constraints effects"
  ),
  "deploy": "types rules dates storage nn encoders methods data evaluation datasets config",
  "training": (
    "types rules storage parallel nn objectives encoders weights methods data evaluation datasets schema"
    " config deploy"
  ),
  "export": "types deploy training",
  "predict": "types parallel deploy",
  "map": "types parallel deploy",
  "interop": (
    "types rules storage nn encoders weights methods data evaluation datasets schema configs config deploy"
  ),
  "main": "types schema_pages schema values config parallel training",
  "inspect": "types storage data inspection config training main",
  "reporting": "types storage methods data evaluation inspection config training",
  "report": "types storage reporting",
  "studies": (
    "types plan storage parallel encoders weights methods data evaluation datasets schema values configs"
    " effects config training"
  ),
  "study": "types plan config main studies",
}
# Of these `deploy` loads nothing, neither at import nor in its functions.
TRAINING_ONLY = ("colearn_jax.training", "tensorflow_datasets", "grain")
# These it does not import itself; reading a work directory loads them.
NOT_IN_DEPLOY = ("optax", "orbax")
# `deploy.load` and `deploy.model` predict from an exported folder where of other packages only these are
# installed.
FOR_PREDICTION = {"jax", "numpy", "flatbuffers"}


def modules(root: Path) -> dict[str, Path]:
  """Every module of the package without tests: its dotted name and its file."""
  out = {}
  for package, folder in FOLDERS.items():
    for path in sorted((root / folder).rglob("*.py")):
      if not path.name.endswith("_test.py"):
        parts = path.relative_to(root / folder).with_suffix("").parts
        out[".".join((package, *parts)).removesuffix(".__init__")] = path
  return out


parsed = functools.cache(ast.parse)


def imports(path: Path, known: dict, *, lazy: bool = True) -> set[str]:
  """What a file imports, by dotted names; without `lazy`, what loading the file imports."""
  found, nodes = set(), [parsed(path.read_text())]
  while nodes:
    node = nodes.pop()
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not lazy:
      continue
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
      nodes += node.orelse
      continue
    nodes += ast.iter_child_nodes(node)
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f"{path}:{node.lineno}: a relative import; write the whole name"
      names = {f"{node.module}.{alias.name}" for alias in node.names}
      found |= {name if name in known else node.module for name in names}
  return found


def loads(module: str, known: dict[str, Path], *, lazy: bool = False) -> dict[str, str]:
  """All that a module imports, directly or through modules of the package, and which of them imports it."""
  seen, todo = {}, [(module, lazy)]
  while todo:
    name, lazy = todo.pop()
    for imported in imports(known[name], known, lazy=lazy):
      parts = imported.split(".")
      parents = [".".join(parts[:n]) for n in range(1, len(parts))]
      # Python loads the packages around a module before it; the importer's own are already loading.
      for target in [imported, *(parent for parent in parents if not f"{name}.".startswith(f"{parent}."))]:
        if target not in seen and target != "colearn_jax":
          seen[target] = name
          todo += [(target, False)] if target in known else []
  return seen


def room(module: str) -> str:
  return module.split(".")[1] if "." in module else ""


def wrong_rooms(known: dict[str, Path]) -> list[str]:
  out = []
  for module, path in known.items():
    own = room(module)
    for imported in sorted(imports(path, known)) if own else ():
      if imported.split(".")[0] in ("configs", "data_builders", "tests", "benchmarks"):
        out.append(
          f"{module} imports {imported}; these folders are colearn_jax.configs and colearn_jax.datasets"
        )
      elif imported.split(".")[0] == "colearn_jax" and (other := room(imported)) not in ("", own):
        if other not in ROOMS.get(own, "").split():
          out.append(f"{module} imports {imported}; {own} may import: {ROOMS.get(own)}")
  return out


def wrong_loads(known: dict[str, Path]) -> list[str]:
  out = []
  inside = lambda name, tops: any(name == top or name.startswith(f"{top}.") for top in tops)
  for module in (name for name in known if room(name) == "deploy"):
    loaded = loads(module, known, lazy=True)
    out += [f"{module} loads {name}, by {by}" for name, by in loaded.items() if inside(name, TRAINING_ONLY)]
    own = imports(known[module], known)
    out += [f"{module} imports {name}" for name in own if inside(name, NOT_IN_DEPLOY)]
  allowed = FOR_PREDICTION | {"colearn_jax"} | set(sys.stdlib_module_names)
  for module in {"colearn_jax.deploy.load", "colearn_jax.deploy.model"} & set(known):
    loaded = loads(module, known)
    out += [f"{module} loads {n}, by {by}" for n, by in loaded.items() if n.split(".")[0] not in allowed]
  return out


def circles(known: dict[str, Path]) -> list[str]:
  found = {module: loads(module, known) for module in known}
  return [f"{module} imports itself, by {of[module]}" for module, of in found.items() if module in of]


KNOWN = modules(ROOT)


def test_the_table_lists_every_room_bottom_to_top():
  assert {room(name) for name in KNOWN} - {""} <= set(ROOMS)
  for at, (name, allowed) in enumerate(ROOMS.items()):
    assert set(allowed.split()) <= set(list(ROOMS)[:at]), name


def test_imports_run_one_way():
  assert not wrong_rooms(KNOWN)


def test_no_module_imports_itself_by_others():
  assert not circles(KNOWN)


def test_prediction_loads_nothing_of_the_training():
  assert not wrong_loads(KNOWN)


@pytest.mark.parametrize(
  "file, line, check",
  [
    ("colearn_jax/nn/wrong.py", "from colearn_jax import training", wrong_rooms),
    ("colearn_jax/types.py", "def f():\n  from colearn_jax.nn import layers", wrong_rooms),
    ("colearn_jax/data/wrong.py", "import configs.common", wrong_rooms),
    ("colearn_jax/deploy/wrong.py", "import optax", wrong_loads),
    ("colearn_jax/deploy/wrong.py", "def f():\n  import orbax.checkpoint", wrong_loads),
    ("colearn_jax/deploy/model.py", "from colearn_jax.nn.middle import x", wrong_loads),
    ("colearn_jax/nn/a.py", "import colearn_jax.nn.b", circles),
  ],
)
def test_a_wrong_import_is_found(tmp_path, file, line, check):
  for folder in ("nn", "deploy", "data", "training"):
    (tmp_path / "colearn_jax" / folder).mkdir(parents=True)
    (tmp_path / "colearn_jax" / folder / "__init__.py").touch()
  (tmp_path / "colearn_jax/__init__.py").touch()
  (tmp_path / "colearn_jax/nn/middle.py").write_text("import flax.nnx")
  (tmp_path / "colearn_jax/nn/b.py").write_text("from colearn_jax.nn import middle")
  assert not check(modules(tmp_path))
  if check is circles:
    (tmp_path / "colearn_jax/nn/b.py").write_text("from colearn_jax.nn import a")
  (tmp_path / file).write_text(line)
  assert check(modules(tmp_path))


def test_every_folder_with_modules_is_installed():
  listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
  assert sorted(listed) == listed
  assert set(listed) == {name for name, path in KNOWN.items() if path.name == "__init__.py"}
  bare = {path.parent for path in KNOWN.values() if not (path.parent / "__init__.py").exists()}
  assert not bare, "folders without __init__.py"


def calls(tree: ast.Module) -> list[tuple[str, ast.Call]]:
  return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def unsafe(source: str) -> list[str]:
  """What of a file could execute what it reads, or could write outside of its folder."""
  tree = parsed(source)
  names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
  names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
  out = sorted(names & {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "cloudpickle"})
  for name, call in calls(tree):
    if name == "np.load" and "allow_pickle=False" not in [ast.unparse(word) for word in call.keywords]:
      out.append(ast.unparse(call))
    unpacks = name.endswith((".extractall", ".extract", "unpack_archive"))
    if unpacks or name in ("eval", "exec", "os.system", "yaml.load", "torch.load", "pd.read_pickle"):
      out.append(ast.unparse(call))
  return out


def test_nothing_that_is_read_is_executed_or_unpacked_to_the_disk():
  assert not [(module, found) for module, path in KNOWN.items() if (found := unsafe(path.read_text()))]


@pytest.mark.parametrize(
  "line",
  [
    "import pickle",
    "from joblib import load",
    "np.load(path)",
    "np.load(path, allow_pickle=True)",
    "archive.extractall(folder)",
    "shutil.unpack_archive(path)",
    "eval(text)",
    "torch.load(path)",
  ],
)
def test_an_unsafe_call_is_found(line):
  assert unsafe(line) and not unsafe("np.load(path, allow_pickle=False)")


def test_no_test_imports_another():
  tests = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "data_builders").rglob("*_test.py")]
  own = {path.stem for path in tests if path.stem.startswith("test_") or path.stem.endswith("_test")}
  wrong = {
    f"{path.name}: {name}" for path in tests for name in imports(path, {}) if own & set(name.split("."))
  }
  assert not wrong
