"""The command line: `python -m tests.golden_replay FOLDER`, see `check.main`."""

import os
import sys

# Each program runs only a few times, so compiling takes most of the time. With fewer optimisations, the
# arithmetic is the same, and compiling takes a third of the time.
os.environ.setdefault(
  "XLA_FLAGS",
  "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
  " --xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters",
)

from tests.golden_replay import check

sys.exit(check.main(sys.argv))
