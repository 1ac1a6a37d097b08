"""Configurations that hypothesis makes up: each is valid, or refused in one line as an InputError."""

import functools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from colearn_jax import config, main, schema, values
from colearn_jax.types import InputError

QUIET = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}
KEYS = sorted(schema.settings("mdico", "tempcnn"))
# Numbers at and beyond bounds, other types, containers, and text that is nearly right.
ODD = st.one_of(
  st.integers(),
  st.floats(),
  st.booleans(),
  st.none(),
  st.text(max_size=8),
  st.sampled_from(["", "nan", "-1", "1e999", "S1,S1", "best ", "../x", "{", "[1,", "()", "\x00", "ä"]),
  st.lists(st.one_of(st.integers(-2, 3), st.text(max_size=3), st.floats()), max_size=3).map(tuple),
  st.dictionaries(st.text(max_size=3), st.one_of(st.integers(-1, 2), st.floats()), max_size=2),
)
TEXT = st.one_of(ODD.map(str), st.text(st.characters(codec="utf-8"), max_size=10))


@functools.cache
def read():
  return config.read("configs/synthetic.py")


def one_line(error):
  assert str(error) and "\n" not in str(error), repr(str(error))


def check_values(changes):
  """What `config.load` does, without executing the file again."""
  chosen = read().copy_and_resolve_references()
  known = config.settings_of(chosen)
  try:
    for key, value in changes.items():
      values.assign(chosen, known, key, value)
    config.validate(chosen)
  except InputError as error:
    one_line(error)


def check_flags(words):
  """What the command line does with its words before it loads any data."""
  try:
    specs, given_keys, _ = main.split([f"--config.{key}={text}" for key, text in words.items()])
    assert not specs
    for key, text in given_keys:
      value = main._value(key, text, config.settings_of(read()))
      values.check(key, value, config.settings_of(read())[key].rule)
  except InputError as error:
    one_line(error)


def several(strategy):
  return st.dictionaries(st.sampled_from(KEYS), strategy, min_size=1, max_size=3)


@pytest.mark.parametrize("examples", [60, pytest.param(3000, marks=pytest.mark.slow)])
def test_odd_values_of_keys_are_refused_in_one_line(examples):
  settings(max_examples=examples, **QUIET)(given(several(ODD))(check_values))()


@pytest.mark.parametrize("examples", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_odd_texts_of_flags_are_refused_in_one_line(examples):
  settings(max_examples=examples, **QUIET)(given(several(TEXT))(check_flags))()
