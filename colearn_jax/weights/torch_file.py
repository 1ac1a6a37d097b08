"""Reads files of `torch.save` without PyTorch, and without running code from the file.

Such a file is a zip archive. It contains a pickle with the structure, and the bytes of each tensor's storage.
A pickle is a program for a stack machine. The machine below implements only the operations for containers,
numbers, text, tensors and arrays. It cannot call anything else.
"""

from __future__ import annotations

import functools
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from colearn_jax.types import InputError

STORAGES = {
  "BFloat16Storage": jnp.bfloat16,
  "BoolStorage": np.bool_,
  "ByteStorage": np.uint8,
  "CharStorage": np.int8,
  "DoubleStorage": np.float64,
  "FloatStorage": np.float32,
  "HalfStorage": np.float16,
  "IntStorage": np.int32,
  "LongStorage": np.int64,
  "ShortStorage": np.int16,
}
LEGACY_HEADER = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # first bytes of files of PyTorch before 1.6


def read(path: str | Path) -> object:
  """Reads the content of a file of `torch.save`, with tensors as arrays and all mappings as plain dicts.

  Arrays are read-only. They share memory if the tensors did. bfloat16 is the type of `ml_dtypes`.

  Raises:
    InputError: the file has another format, is damaged, or contains anything but tensors, arrays, numbers,
      text and containers of these. The message names the first such object.
  """
  path = Path(path)
  try:
    with open(path, "rb") as file:
      head = file.read(len(LEGACY_HEADER))
    if head == LEGACY_HEADER:
      raise InputError(
        f"{path} has the format of torch.save before PyTorch 1.6; load it there and save it again"
      )
    if not zipfile.is_zipfile(path):
      raise InputError(f"{path} is not a file of torch.save, or its end is missing: it is no zip archive")
    with zipfile.ZipFile(path) as archive:
      return _Machine(path, archive).run()
  except OSError as error:
    raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
  except InputError:
    raise
  except Exception as error:  # damaged files make the libraries raise exceptions of any type
    line = " ".join(str(error).split()) or type(error).__name__
    raise InputError(f"{path} is damaged or not a file of torch.save: {line}") from None


class _Global(str):
  """The name of a class or function, such as `torch.FloatStorage`. It is never imported."""


class _Storage:
  """The values of one storage, read when the first tensor needs them."""

  def __init__(self, read: Callable[[], np.ndarray]):
    self.read = functools.cache(read)


class _Blank:
  """A NumPy array whose values are not known yet."""


class _Machine:
  """Runs the pickle of an archive; `run` returns the object that it describes."""

  def __init__(self, path: Path, archive: zipfile.ZipFile):
    self.path, self.archive = path, archive
    self.entries = {info.filename: info for info in archive.infolist()}
    roots = [name.removesuffix("data.pkl") for name in self.entries if name.endswith("/data.pkl")]
    if len(roots) != 1:
      raise InputError(f"{path} is not a file of torch.save: a zip archive without its data.pkl")
    self.root = roots[0]
    order = self.entry("byteorder") if f"{self.root}byteorder" in self.entries else b"little"
    if order != b"little":
      raise InputError(
        f"{path} has its numbers in {order.decode(errors='replace')} endian order, not in little"
      )
    self.stack: list = []
    self.marks: list[int] = []
    self.memo: dict[int, object] = {}
    self.storages: dict[str, _Storage] = {}

  def entry(self, name: str) -> bytes:
    """Reads an entry of the archive. torch.save does not compress them."""
    info = self.entries.get(self.root + name)
    if info is None or info.compress_type != zipfile.ZIP_STORED:
      raise InputError(f"{self.path} is damaged: its entry {name} is {'compressed' if info else 'missing'}")
    return self.archive.read(info)

  def refused(self, what: str) -> InputError:
    """Makes the error for content that is not allowed."""
    return InputError(
      f"{self.path} holds more than tensors, numbers, text and containers: {what}; nothing of it was run, "
      "save the state_dict() alone"
    )

  def run(self) -> object:
    """Runs the pickle and returns its object."""
    for opcode, value, _ in pickletools.genops(self.entry("data.pkl")):
      if opcode.name == "STOP":
        return self.stack.pop()
      if opcode.name in PUSH:
        self.stack.append(PUSH[opcode.name](value))
      elif opcode.name in STEP:
        STEP[opcode.name](self, value)
      elif opcode.name not in ("PROTO", "FRAME"):
        raise self.refused(f"the pickle operation {opcode.name}")
    raise EOFError("its pickle does not end")

  def mark(self, _) -> None:
    """Marks the start of a group of values."""
    self.marks.append(len(self.stack))

  def since_mark(self) -> list:
    """Pops the values since the last mark."""
    start = self.marks.pop()
    values, self.stack[start:] = self.stack[start:], []
    return values

  def tuple(self, count: int | None) -> None:
    """Makes a tuple of the last `count` values, or of those since the mark."""
    if count is None:
      self.stack.append(tuple(self.since_mark()))
    else:
      self.stack[-count:] = [tuple(self.stack[-count:])]

  def remember(self, index: int | None) -> None:
    """Stores the last value under a number, by default the next one."""
    self.memo[len(self.memo) if index is None else index] = self.stack[-1]

  def append(self, values: list) -> None:
    """Extends the list on the stack."""
    if type(self.stack[-1]) is not list:
      raise TypeError("values are appended to what is no list")
    self.stack[-1].extend(values)

  def set(self, values: list) -> None:
    """Adds items, alternating keys and values, to the dict on the stack."""
    if type(self.stack[-1]) is not dict:
      raise TypeError("items are set of what is no dict")
    self.stack[-1].update(zip(values[::2], values[1::2]))

  def add(self, values: list) -> None:
    """Adds values to the set on the stack."""
    if type(self.stack[-1]) is not set:
      raise TypeError("values are added to what is no set")
    self.stack[-1].update(values)

  def name(self, name: str) -> None:
    """Pushes the name of a class or function, if it is one that data needs."""
    if name not in CALLS and name not in DTYPES and name.removeprefix("torch.") not in STORAGES:
      raise self.refused(f"it asks for {name}")
    self.stack.append(_Global(name))

  def call(self, _) -> None:
    """Performs a call, if it is one of `CALLS`."""
    args, name = self.stack.pop(), self.stack.pop()
    if not isinstance(name, _Global) or name not in CALLS or type(args) is not tuple:
      raise self.refused(f"a call of {name if isinstance(name, _Global) else type(name).__name__}")
    self.stack.append(CALLS[name](self, *args))

  def state(self, _) -> None:
    """Sets the values of an array or the byte order of a dtype; ignores attributes of a dict."""
    state, target = self.stack.pop(), self.stack[-1]
    if isinstance(target, _Blank):
      _, shape, dtype, fortran, data = state
      array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
      self.stack[-1] = array
      self.memo |= {index: array for index, value in self.memo.items() if value is target}
    elif isinstance(target, np.dtype):
      if state[1] == ">":
        raise InputError(f"{self.path} has an array in big endian order")
    elif type(target) is not dict:
      raise self.refused(f"the state of a {type(target).__name__}")

  def storage(self, _) -> None:
    """Resolves a persistent id, `("storage", class, key, device, number of values)`."""
    kind, cls, key, _, count = self.stack.pop()
    if kind != "storage" or not isinstance(cls, _Global) or cls.removeprefix("torch.") not in STORAGES:
      raise self.refused(f"the {kind} {cls}")
    dtype = np.dtype(STORAGES[cls.removeprefix("torch.")])

    def read() -> np.ndarray:
      data = self.entry(f"data/{key}")
      if len(data) != count * dtype.itemsize:
        raise ValueError(f"storage {key} has {len(data)} bytes for {count} values of {dtype}")
      return np.frombuffer(data, dtype)

    self.stack.append(self.storages.setdefault(f"{key} {cls}", _Storage(read)))

  def tensor(self, storage, offset, size, stride, *_) -> np.ndarray:
    """Makes a view of a storage, which has to lie inside it."""
    values = storage.read()
    if len(size) != len(stride) or min((offset, *size, *stride)) < 0:
      raise ValueError(f"a tensor of size {size} and stride {stride} at {offset}")
    if 0 in size:
      return np.zeros(size, values.dtype)
    if offset + sum((n - 1) * step for n, step in zip(size, stride)) >= len(values):
      raise ValueError("a tensor reaches beyond its storage")
    steps = tuple(step * values.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(values[offset:], size, steps, writeable=False)

  def dtype(self, name, *_) -> np.dtype:
    """Makes the dtype of an array. Object arrays are refused, because they contain further pickles."""
    dtype = np.dtype(name)
    if dtype.kind not in "biuf":
      raise self.refused(f"an array of {dtype}")
    return dtype

  def bytes(self, text, encoding) -> bytes:
    """Decodes bytes as the second pickle protocol encodes them."""
    return text.encode({"latin1": "latin1"}[encoding])


def _array_module(name: str) -> tuple[str, str]:
  return f"numpy.core.multiarray.{name}", f"numpy._core.multiarray.{name}"


# Allowed calls and their implementations. The functions of NumPy, PyTorch or Python are never looked up by
# name.
CALLS: dict[str, Callable] = {
  "torch._utils._rebuild_tensor": _Machine.tensor,
  "torch._utils._rebuild_tensor_v2": _Machine.tensor,
  "torch._utils._rebuild_parameter": lambda _, tensor, *__: tensor,
  "torch.Size": lambda _, sizes: tuple(sizes),
  "torch.device": lambda _, *device: ":".join(map(str, device)),
  "collections.OrderedDict": lambda _, items=(): dict(items),
  **dict.fromkeys(("__builtin__.set", "builtins.set"), lambda _, items=(): set(items)),
  "numpy.dtype": _Machine.dtype,
  "numpy.ndarray": lambda _, *__: _Blank(),
  **dict.fromkeys(_array_module("_reconstruct"), lambda _, *__: _Blank()),
  **dict.fromkeys(_array_module("scalar"), lambda _, dtype, data: np.frombuffer(data, dtype)[0]),
  "_codecs.encode": _Machine.bytes,
}
DTYPES = {
  f"torch.{name}" for name in "float16 bfloat16 float32 float64 int8 uint8 int16 int32 int64 bool".split()
}

_SAME = ("BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES "
         "SHORT_BINBYTES BINBYTES8").split()  # fmt: skip
PUSH: dict[str, Callable] = {
  **dict.fromkeys(_SAME, lambda value: value),
  "NONE": lambda _: None,
  "NEWTRUE": lambda _: True,
  "NEWFALSE": lambda _: False,
  "EMPTY_DICT": lambda _: {},
  "EMPTY_LIST": lambda _: [],
  "EMPTY_TUPLE": lambda _: (),
  "EMPTY_SET": lambda _: set(),
}
STEP: dict[str, Callable[[_Machine, Any], None]] = {
  "MARK": _Machine.mark,
  "TUPLE": lambda m, _: m.tuple(None),
  "TUPLE1": lambda m, _: m.tuple(1),
  "TUPLE2": lambda m, _: m.tuple(2),
  "TUPLE3": lambda m, _: m.tuple(3),
  **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.remember),
  **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda m, index: m.stack.append(m.memo[index])),
  "APPEND": lambda m, _: m.append([m.stack.pop()]),
  "APPENDS": lambda m, _: m.append(m.since_mark()),
  "SETITEM": lambda m, _: m.set([m.stack.pop(-2), m.stack.pop()]),
  "SETITEMS": lambda m, _: m.set(m.since_mark()),
  "ADDITEMS": lambda m, _: m.add(m.since_mark()),
  "GLOBAL": lambda m, name: m.name(".".join(name.split(" "))),
  "STACK_GLOBAL": lambda m, _: m.name(f"{m.stack.pop(-2)}.{m.stack.pop()}"),
  "REDUCE": _Machine.call,
  "BUILD": _Machine.state,
  "BINPERSID": _Machine.storage,
}
