"""Names for what the symbolic and the numerical work hand on, where the types of a package say too little."""

from typing import Any

Formula = Any
"""A sympy expression. Sympy declares the arguments of one as Basic, which has no arithmetic, and most
attributes that tell expressions apart not at all."""
Value = Any
"""A number, or an array of them, of the arithmetic in use: Python's, NumPy's, JAX's or mpmath's."""
Context = Any
"""A context of mpmath: its functions, in its number of digits. Mpmath has no types."""
