import os
import tempfile

# Tests spend most of their time compiling. With fewer optimisations, compiling takes a third of the time.
os.environ.setdefault(
  "XLA_FLAGS",
  "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
  " --xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
  # Eight simulated devices share few cores: one that waits for the others is not to end the process.
  " --xla_cpu_collective_call_terminate_timeout_seconds=600",
)

import jax
import pytest
from absl import flags

# Eight simulated devices, so that every test runs sharded code. This must come before JAX is initialised.
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
# Arrays of different ranks must be expanded explicitly: `x + bias[None]`, not `x + bias`.
jax.config.update("jax_numpy_rank_promotion", "raise")
# Many tests compile the same programs. The workers share a compilation cache, which is deleted when the main
# process ends.
if "COLEARN_JAX_TEST_CACHE" not in os.environ:
  _cache = tempfile.TemporaryDirectory()
  os.environ["COLEARN_JAX_TEST_CACHE"] = _cache.name
jax.config.update("jax_compilation_cache_dir", os.environ["COLEARN_JAX_TEST_CACHE"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
flags.FLAGS.mark_as_parsed()  # grain reads its flags


def pytest_collection_modifyitems(items):
  """Puts the file with the slowest fixture first.

  A worker that has nothing left takes half of the other's last tests, and makes their fixtures once more.
  """
  items.sort(key=lambda item: item.path.name != "test_train.py")


@pytest.fixture(scope="module")
def alone():
  """The tests of a module use one device, which is faster; those that need it ask by `usefixtures`."""
  from small_runs import one_device

  with pytest.MonkeyPatch.context() as patch:
    one_device(patch)
    yield


@pytest.fixture(scope="module")
def where(request, tmp_path_factory):
  """The keys of a small file in LFMC's layout, of `ROWS` rows of the module, and where it is prepared."""
  from small_runs import sources

  return sources(tmp_path_factory.mktemp("data"), getattr(request.module, "ROWS", 72))
