"""Settings of the whole suite: CPU, four virtual devices, float32 unless a test asks for more."""

import collections
import gc
import os
import pathlib
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test goes to the network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "agg")

# Four devices on two busy cores may wait long for each other; after 40 seconds XLA would abort the process.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_cpu_collective_call_warn_stuck_timeout_seconds=120",
        "--xla_cpu_collective_call_terminate_timeout_seconds=600",
    ]
)

import jax
import jaxtyping
import pytest

from tests import typechecks

typechecks.install()

# Data parallelism is tested on virtual devices; they must be asked for before the backend starts.
jax.config.update("jax_num_cpu_devices", 4)

# JAX keeps every traced program; looking through them for garbage so often is a tenth of a run.
gc.set_threshold(200_000, 50, 1000)


def pytest_configure(config):
    """Each program is compiled once: workers, and the processes that tests start, share them on disk."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    if config.option.markexpr == "not slow":
        # XLA's older way to write loops compiles in less time. With it a run of a sweep is not to the bit
        # that run alone, as slow tests want it.
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
    place = tempfile.TemporaryDirectory(prefix="fdiv-jax-compiled-")
    config.add_cleanup(place.cleanup)
    settings = {"jax_compilation_cache_dir": place.name, "jax_persistent_cache_min_compile_time_secs": 0}
    for name, value in settings.items():
        os.environ[name.upper()] = str(value)  # for the processes that this one starts
        jax.config.update(name, value)


MATHEMATICS = {"divergences", "theory", "test_compiling.py", "test_doctests.py"}
"""Optimised always: without it XLA's code for the CPU is not always right (of 53 values of one conjugate two
came out as their roots; jaxlib 0.10.2, AMD EPYC)."""

OPTIMISED_IF_SLOW = {
    *("worlds", "test_attack.py", "test_run_documents.py"),  # draw and train the world `fashion`
    "test_memory.py",  # foresees the memory of what XLA optimises
    "test_denoising.py",  # finite differences in float32
}
"""Optimised where their slow tests run."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """The order of the files, which `--no-loadscope-reorder` keeps: those with the most slow tests first, so
    that none is begun when the other workers are done, and by folders that are compiled alike."""
    weight = collections.Counter()
    for item in items:
        weight[item.path] += 1000 if item.get_closest_marker("slow") else 1
    items.sort(key=lambda item: (hardly_optimised(item), -weight[item.path]))


def hardly_optimised(item):
    """Most of a test is XLA compiling a tiny model, so XLA optimises little but in the files named above."""
    fast = item.config.option.markexpr == "not slow"
    optimised = MATHEMATICS if fast else MATHEMATICS | OPTIMISED_IF_SLOW
    return optimised.isdisjoint((item.path.parent.name, item.path.name))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """What was compiled before a change of the optimisation is forgotten: programs that were compiled either
    way and met in one process would not be equal to the bit. Processes that a test starts do as it does."""
    little = hardly_optimised(item)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(little))
    if jax.config.values["jax_disable_most_optimizations"] != little:
        jax.clear_caches()
        jax.config.update("jax_disable_most_optimizations", little)


@pytest.fixture(autouse=True, scope="module")
def bounded_mappings():
    """JAX keeps every program it has compiled, in mappings of memory, of which Linux allows a process 65,530.

    Past them the compiler ends in a segmentation fault, which some thousand tests in one process reach.
    Between two modules a process that has many forgets its programs; those wanted again come from the disk.
    """
    yield
    mappings = pathlib.Path("/proc/self/maps")
    if mappings.exists() and mappings.read_bytes().count(b"\n") > 10_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(autouse=True)
def type_checks(request):
    """Annotations are checked in the tests that want it; see tests/typechecks.py."""
    jaxtyping.config.update("jaxtyping_disable", not typechecks.wanted(request.node))
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def x64():
    """The test runs in float64 (JAX's default elsewhere in the suite is float32)."""
    with jax.enable_x64(True):
        yield
