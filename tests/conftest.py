import os
import tempfile

# The tests spend their time compiling: code that is less optimised is ready in a third of it.
os.environ.setdefault(
  "XLA_FLAGS",
  "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
  " --xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters",
)

import jax
from absl import flags

# Before anything asks for a device: eight of them, so that every test runs sharded code.
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
# An array of fewer axes must say along which axes it is repeated: `x + bias[None]`, not `x + bias`.
jax.config.update("jax_numpy_rank_promotion", "raise")
# Many tests compile the same programs; each is compiled once, by whichever worker comes first. The folder
# goes with the process that started them.
if "COLEARN_JAX_TEST_CACHE" not in os.environ:
  _cache = tempfile.TemporaryDirectory()
  os.environ["COLEARN_JAX_TEST_CACHE"] = _cache.name
jax.config.update("jax_compilation_cache_dir", os.environ["COLEARN_JAX_TEST_CACHE"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
flags.FLAGS.mark_as_parsed()  # grain asks its flags for their values
