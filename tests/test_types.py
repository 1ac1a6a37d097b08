import pytest

from colearn_jax.types import CONTEXT, Description, InputError, Modality, Task, join_views, resolve_views


def test_a_description_comes_back_from_json():
  series = Modality("a_b", ("a", "b"), (12, 3), ("x", "y", "z"))
  context = Modality(CONTEXT, ("date",), (2,), ("date_sin", "date_cos"))
  task = Task("binary", ("no", "yes"), "crop")
  full = Description("own", task, (series, context), {"number": 3}, {"a": {"dated": True}})
  assert Description.from_json(full.to_json()) == full
  assert full.sensors == {"a_b": series} and full.context == ("date_sin", "date_cos")
  bare = Description("own", Task("regression", ("y",)), (series,))
  assert Description.from_json(bare.to_json()) == bare and bare.context == ()
  with pytest.raises(InputError, match="'task'"):
    Description.from_json({"name": "own", "modalities": []})


def test_views_join_on_the_last_axis():
  shapes = {"a": (None, 6, 6, 2), "b": (None, 6, 6, 10), "c": (3,)}
  assert join_views("a_b", shapes, ("a", "b")) == (None, 6, 6, 12)
  assert join_views("c", shapes, ("c",)) == (3,)
  with pytest.raises(InputError, match="a_c cannot join views"):
    join_views("a_c", shapes, ("a", "c"))
  with pytest.raises(InputError, match="reserved"):
    resolve_views(CONTEXT, (CONTEXT, "a"))
