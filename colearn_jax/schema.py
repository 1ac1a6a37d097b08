"""Temporary."""

from ml_collections import ConfigDict

from colearn_jax import methods


def with_method(config, name):
  """The same configuration for another method."""
  config = ConfigDict(config.to_dict())
  config.method, config.baseline = name, False
  keep = config.loss.class_weights
  config.loss = ConfigDict({n: s.default for n, s in methods.settings(name).items()})
  config.loss.class_weights, config.loss.ablations = keep, ConfigDict()
  return config
