"""How far two sets of embeddings are apart."""

from __future__ import annotations

import numpy as np

__all__ = ["kernel_distance"]


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """KID on unit embeddings: the squared MMD with kernel (x . y + 1)^3, pairs of one index left out.

    x and y (n, d) are drawn from the same noise image by image, so that x_i and y_i are not independent: the
    U-statistic over i != j is unbiased all the same. (With embeddings of norm sqrt(d) this is KID's own
    (x . y / d + 1)^3.)

    Source: Binkowski et al., Demystifying MMD GANs, 2018, section 4.
    """
    if x.shape != y.shape or len(x) < 2:
        raise ValueError(f"expected two sets of at least 2 paired embeddings, got {x.shape} and {y.shape}")
    total = (x @ x.T + 1) ** 3 + (y @ y.T + 1) ** 3 - (x @ y.T + 1) ** 3 - (y @ x.T + 1) ** 3
    n = len(x)
    return float((total.sum() - np.trace(total)) / (n * (n - 1)))
