import pytest

from colearn_jax.types import Description, InputError, Modality, Task, join_views


def test_a_description_comes_back_from_json():
  series, context = (
    Modality("a_b", ("a", "b"), (12, 3), ("x", "y", "z")),
    Modality("context", ("date",), (2,), ("s", "c")),
  )
  for extra in ({}, {"context": context, "samples": {"number": 3, "digest": "abc"}}):
    described = Description("own", Task("binary", ("no", "yes")), (series,), **extra)
    assert Description.from_json(described.to_json()) == described
  old = described.to_json()
  del old["context"], old["samples"]
  assert Description.from_json(old).context is None


def test_views_join_on_the_last_axis():
  shapes = {"a": (None, 6, 6, 2), "b": (None, 6, 6, 10), "c": (3,)}
  assert join_views("a_b", shapes, ("a", "b")) == (None, 6, 6, 12)
  assert join_views("c", shapes, ("c",)) == (3,)
  with pytest.raises(InputError, match="a_c cannot join views"):
    join_views("a_c", shapes, ("a", "c"))
