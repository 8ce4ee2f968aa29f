"""Doctests, the cost of importing, and what the import must not load."""

import doctest
import importlib
import pkgutil
import subprocess
import sys

import pytest

import fdiv_jax.divergences

MODULES = ["fdiv_jax.divergences", *(
    f"fdiv_jax.divergences.{module.name}" for module in pkgutil.iter_modules(fdiv_jax.divergences.__path__)
)]  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name):
    outcome = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert outcome.failed == 0


def test_there_are_doctests():
    finder = doctest.DocTestFinder()
    examples = sum(len(t.examples) for n in MODULES for t in finder.find(importlib.import_module(n)))
    assert examples >= 10


def test_import_is_quick_and_loads_no_flax():
    """Importing costs a quarter of what JAX and SymPy cost at most (together 1.0 s on an idle core)."""
    script = (
        "import sys, time\nstart = time.process_time()\nimport jax.numpy, sympy\n"
        "needed = time.process_time()\nimport fdiv_jax.divergences\n"
        "print((time.process_time() - needed) / (needed - start),"
        " *[m for m in ('flax', 'torch', 'diffusers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    ratio, *loaded = done.stdout.split()
    assert not loaded
    assert float(ratio) < 0.25
