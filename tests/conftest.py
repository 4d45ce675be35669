"""Four fake CPU devices, and one compilation cache for all test processes; set before JAX is imported anywhere."""

import atexit
import os
import shutil
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  # The first process, whose environment pytest-xdist's workers inherit: whole runs compile the same programs again.
  os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="metamix_jax_tests_")
  atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
