"""Chebyshev series of degree 15 on a panel, -1 <= u <= 1: made from values at the nodes, and evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = Any
"""An array of NumPy or of JAX."""
DEGREE = 16
_ANGLES = (np.arange(DEGREE) + 0.5) * np.pi / DEGREE
NODES = np.cos(_ANGLES)
TRANSFORM = np.cos(np.outer(np.arange(DEGREE), _ANGLES)) * 2 / DEGREE
TRANSFORM[0] /= 2


def value_and_slope(coefficients: Sequence[Array], u: Array) -> tuple[Array, Array]:
    """A series and its derivative in u, by Clenshaw's recurrence; coefficients: an array for each degree."""
    b1 = b2 = d1 = d2 = 0.0
    for coefficient in coefficients[:0:-1]:
        d1, d2 = 2 * u * d1 - d2 + 2 * b1, d1
        b1, b2 = 2 * u * b1 - b2 + coefficient, b1
    return u * b1 - b2 + coefficients[0], u * d1 - d2 + b1
