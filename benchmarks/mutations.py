"""Small changes of a program that a test should notice: where they are, and what takes the place of what.

Changes are made in the text, at positions that `ast` gives, so that the rest of the file stays as it is. No
change is made in docstrings, annotations, decorators, messages of errors and asserts, or in text.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path

COMPARED: dict[type, str] = {
  ast.Lt: "<=",
  ast.LtE: "<",
  ast.Gt: ">=",
  ast.GtE: ">",
  ast.Eq: "!=",
  ast.NotEq: "==",
  ast.Is: "is not",
  ast.IsNot: "is",
  ast.In: "not in",
  ast.NotIn: "in",
}
REPLACED: dict[type, str] = {
  ast.Add: "-",
  ast.Sub: "+",
  ast.Mult: "/",
  ast.Div: "*",
  ast.FloorDiv: "*",
  ast.Mod: "*",
  ast.Pow: "*",
  ast.BitAnd: "|",
  ast.BitOr: "&",
}
# Functions and what is called instead. Both have the same arguments.
CALLED = {
  "maximum": "minimum",
  "minimum": "maximum",
  "max": "min",
  "min": "max",
  "argmax": "argmin",
  "argmin": "argmax",
  "any": "all",
  "all": "any",
  "sum": "mean",
  "mean": "sum",
  "var": "std",
  "std": "var",
  "ones": "zeros",
  "zeros": "ones",
  "square": "abs",
  "abs": "square",
  "exp": "expm1",
  "log": "log1p",
  "log1p": "log",
  "rsqrt": "sqrt",
  "sqrt": "square",
  "softmax": "log_softmax",
  "log_softmax": "softmax",
  "sigmoid": "log_sigmoid",
  "log_sigmoid": "sigmoid",
  "tile": "repeat",
  "repeat": "tile",
  "sorted": "list",
}
SYMMETRIC = set("maximum minimum max min zip isinstance getattr hasattr einsum swapaxes".split())


@dataclasses.dataclass(frozen=True)
class Mutation:
  """One change.

  Attributes:
    path: of the file, relative to the repository.
    line: from 1.
    body: the first line of the innermost function around it, without its head; 0 outside of functions.
    start: position of the first byte that is replaced.
    end: position after the last one.
    new: what is written there.
    source: the line as it is.
    changed: the line, or lines, as changed, with single spaces.
  """

  path: str
  line: int
  body: int
  start: int
  end: int
  new: str
  source: str
  changed: str

  @property
  def key(self) -> tuple[str, str]:
    """What stays the same when lines are added elsewhere in the file."""
    return self.path, self.changed

  def applied(self, text: bytes) -> bytes:
    """The text of the file with the change."""
    return text[: self.start] + self.new.encode() + text[self.end :]


def mutations(root: Path, path: str) -> list[Mutation]:
  """All changes of a file, in the order of their positions. See `valid`: a few give no program."""
  text = (root / path).read_bytes()
  lines = text.splitlines(keepends=True)
  begins = [0]
  for line in lines:
    begins.append(begins[-1] + len(line))
  at = lambda row, column: begins[row - 1] + column
  found, tree = set(), ast.parse(text)
  defined = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
  bodies = [(n.body[0].lineno, n.end_lineno) for n in defined]
  for node in _looked_at(tree):
    body = max((first for first, last in bodies if first <= node.lineno <= last), default=0)
    for start, end, new in _changes(node, text, at):
      line = lines[node.lineno - 1].decode().strip()
      before, after = text[text.rfind(b"\n", 0, start) + 1 : start], text[end : text.find(b"\n", end)]
      changed = " ".join((before + new.encode() + after).decode().split())
      change = Mutation(path, node.lineno, body, start, end, new, line, changed)
      if text[start:end] != new.encode():
        found.add(change)
  return sorted(found, key=lambda change: (change.start, change.end, change.new))


def valid(root: Path, change: Mutation) -> bool:
  """Whether a change gives a program."""
  try:
    ast.parse(change.applied((root / change.path).read_bytes()))
  except SyntaxError:
    return False
  return True


def _looked_at(node: ast.AST) -> Iterator[ast.expr | ast.stmt]:
  """The nodes that are changed: the others say nothing that a test looks at."""
  for name, value in ast.iter_fields(node):
    if name in ("annotation", "returns", "decorator_list", "bases") or isinstance(
      node, ast.Raise | ast.Assert
    ):
      continue
    for child in value if isinstance(value, list) else [value]:
      if isinstance(child, ast.JoinedStr | ast.Import | ast.ImportFrom) or not isinstance(child, ast.AST):
        continue
      if isinstance(child, ast.expr | ast.stmt):
        yield child
      yield from _looked_at(child)


def _changes(node, text: bytes, at) -> Iterator[tuple[int, int, str]]:
  """Positions and new text of the changes of one node, not of those in it."""
  span = lambda n: (at(n.lineno, n.col_offset), at(n.end_lineno, n.end_col_offset))
  source = lambda n: text[slice(*span(n))].decode()
  between = lambda left, right, old, new: _operator(text, span(left)[1], span(right)[0], old, new)
  match node:
    case ast.Compare(left=left, ops=[operator], comparators=[right]) if type(operator) in COMPARED:
      yield from between(left, right, _SIGNS[type(operator)], COMPARED[type(operator)])
    case ast.BinOp(left=left, op=operator, right=right) if type(operator) in REPLACED:
      if not any(isinstance(n, ast.JoinedStr | ast.List | ast.Tuple) or _text(n) for n in (left, right)):
        yield from between(left, right, _SIGNS[type(operator)], REPLACED[type(operator)])
    case ast.BoolOp(op=operator, values=[left, right, *_]):
      old, new = ("and", "or") if isinstance(operator, ast.And) else ("or", "and")
      yield from between(left, right, old, new)
    case ast.UnaryOp(op=ast.USub() | ast.Not() | ast.Invert(), operand=operand):
      yield span(node)[0], span(operand)[0], ""
    case ast.AugAssign(target=target, op=operator, value=value) if type(operator) in REPLACED:
      if not isinstance(value, ast.List | ast.Dict | ast.JoinedStr | ast.Set):
        yield from between(target, value, _SIGNS[type(operator)], REPLACED[type(operator)])
    case ast.Constant(value=bool() as value):
      yield *span(node), str(not value)
    case ast.Constant(value=int() as value):
      yield *span(node), str(value + 1)
    case ast.Constant(value=float() as value):
      yield *span(node), repr(2 * value if value else 1.0)
    case ast.IfExp(test=test) | ast.If(test=test):
      if not _not_run(test):
        yield *span(test), f"not ({source(test)})"
    case ast.Call(func=function, args=arguments):
      yield from _calls(node, function, arguments, span, source)


def _calls(node, function, arguments, span, source) -> Iterator[tuple[int, int, str]]:
  """Another function is called, the order of its arguments changes, or a gradient flows."""
  name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
  first, last = span(function)
  if name in CALLED:
    yield last - len(name), last, CALLED[name]
  if name == "stop_gradient" and len(arguments) == 1:
    yield *span(node), f"({source(arguments[0])})"
  if any(isinstance(argument, ast.Starred) for argument in arguments):
    return
  if name == "where" and len(arguments) == 3:
    one, two = arguments[1:]
  elif len(arguments) == 2 and name not in SYMMETRIC:
    one, two = arguments
  else:
    return
  yield span(one)[0], span(two)[1], f"{source(two)}, {source(one)}"


_SIGNS: dict[type, str] = {
  ast.Lt: "<",
  ast.LtE: "<=",
  ast.Gt: ">",
  ast.GtE: ">=",
  ast.Eq: "==",
  ast.NotEq: "!=",
  ast.Is: "is",
  ast.IsNot: "is not",
  ast.In: "in",
  ast.NotIn: "not in",
  ast.Add: "+",
  ast.Sub: "-",
  ast.Mult: "*",
  ast.Div: "/",
  ast.FloorDiv: "//",
  ast.Mod: "%",
  ast.Pow: "**",
  ast.BitAnd: "&",
  ast.BitOr: "|",
}


def _operator(text: bytes, start: int, end: int, old: str, new: str) -> Iterator[tuple[int, int, str]]:
  """The position of an operator between two operands, whose brackets may stand there too."""
  if (at := text[start:end].find(old.encode())) >= 0:
    yield start + at, start + at + len(old), new


def _text(node: ast.AST) -> bool:
  return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _not_run(test: ast.AST) -> bool:
  return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"
