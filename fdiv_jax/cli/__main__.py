"""`python -m fdiv_jax.cli` is `fdiv-jax`."""

import sys

from fdiv_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
