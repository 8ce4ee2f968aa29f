"""Settings of the whole suite: CPU, four virtual devices, float32 unless a test asks for more."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test goes to the network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "agg")

import jax
import pytest

# Data parallelism is tested on virtual devices; they must be asked for before the backend starts.
jax.config.update("jax_num_cpu_devices", 4)


def pytest_configure(config):
    """Most of a fast test is XLA compiling, so the fast tests alone (`make test`) have it optimise little."""
    if config.option.markexpr == "not slow":
        jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def x64():
    """The test runs in float64 (JAX's default elsewhere in the suite is float32)."""
    with jax.enable_x64(True):
        yield
