"""The cost of importing, and what the import must not load."""

import subprocess
import sys


def test_import_is_quick_and_loads_neither_jax_nor_flax():
    """Importing costs half of what NumPy and SymPy cost at most."""
    script = (
        "import sys, time\nstart = time.process_time()\nimport numpy, sympy\n"
        "needed = time.process_time()\nimport fdiv_jax.divergences\n"
        "print((time.process_time() - needed) / (needed - start),"
        " *[m for m in ('jax', 'flax', 'torch', 'diffusers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    ratio, *loaded = done.stdout.split()
    assert not loaded
    assert float(ratio) < 0.5
