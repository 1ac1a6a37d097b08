"""Arrays as the bytes of a safetensors file, written and read with NumPy and jax alone.

The format (https://github.com/huggingface/safetensors): the length of the header as 8 bytes, little-endian;
the header as JSON, which has the dtype, shape and place of each array by name; and the values, row by row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

DTYPES = {
  **{"F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1"},
  **{"U64": "u8", "U32": "u4", "U16": "u2", "U8": "u1", "BOOL": "?", "BF16": jnp.bfloat16},
}


def to_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
  """A file with these arrays. Their dtypes are those of `DTYPES`."""
  names = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
  header, parts, end = {}, [], 0
  for name, array in arrays.items():
    array = np.asarray(array)
    array = array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
    data = array.tobytes()
    place = [end, end := end + len(data)]
    header[name] = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": place}
    parts.append(data)
  text = json.dumps(header, ensure_ascii=False).encode()
  text += b" " * (-len(text) % 8)  # the values begin at a multiple of 8 bytes
  return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def from_bytes(data: bytes) -> dict[str, np.ndarray]:
  """The arrays of a file by name, read-only. ValueError or KeyError if it is no such file."""
  begin = 8 + int.from_bytes(data[:8], "little")
  header = json.loads(data[8:begin])
  out = {}
  for name, facts in header.items():
    if name != "__metadata__":
      first, last = facts["data_offsets"]
      values = np.frombuffer(data[begin + first : begin + last], DTYPES[facts["dtype"]])
      out[name] = values.reshape(facts["shape"])
  return out
