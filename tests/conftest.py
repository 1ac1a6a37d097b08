import jax
from absl import flags

# Before anything asks for a device: eight of them, so that every test runs sharded code.
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
flags.FLAGS.mark_as_parsed()  # grain asks its flags for their values
