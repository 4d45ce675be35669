"""Four fake CPU devices and one compilation cache for all test processes, set before JAX is imported; data sets."""

import atexit
import os
import shutil
import signal
import tempfile

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  # The first process, whose environment pytest-xdist's workers inherit: whole runs compile the same programs again.
  os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="metamix_jax_tests_")
  atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

# Where the tests run under nohup, the processes that they start would inherit that SIGHUP is ignored.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
  """A folder of data sets: the digits are prepared in it once for each test process, by whoever reads them first."""
  return tmp_path_factory.mktemp("tfds")


@pytest.fixture(scope="session")
def digits_builder(data_dir):
  """The digits."""
  from metamix_jax import data  # Loads TensorFlow: seconds.
  return data.open_dataset("digits", str(data_dir))


@pytest.fixture(scope="session")
def imagenet_standin(tmp_path_factory):
  """A small stand-in for ImageNet: JPEG records in TFDS's format."""
  from tests.helpers import standin_batches  # Loads TensorFlow: seconds.
  return standin_batches.open_standin(tmp_path_factory.mktemp("standin"))
