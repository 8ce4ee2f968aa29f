"""Distances of two sets of features: KID, FID and CMMD, in float64 whatever the features are.

None of them says anything without the name of the features: KID on a classifier of clothes is another
quantity than KID on Inception. See `fdiv_jax.evaluation.Features`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["cmmd", "fid", "frechet_distance", "kid", "kid_subsets"]

_ROWS = 1024
"""Rows of a kernel matrix that are held at a time."""


def kid(x: object, y: object, *, paired: bool = False, scale: float | None = None) -> float:
    """Kernel distance: the unbiased estimate of the squared MMD with kernel (x . y / scale + 1)^3.

        mean over i != j of k(x_i, x_j)  +  the same of y  -  2 mean over i, j of k(x_i, y_j)

    May be negative, and is so half of the time where both sets are from one distribution. As torch-fidelity
    and clean-fid compute it on one subset of everything.

    Args:
        x, y: (n, d) and (m, d), at least two each.
        paired: x_i and y_i come from the same prompt and noise, so that they are not independent: the pairs
            i = j are left out of the last mean too, which keeps the estimate unbiased.
        scale: divides the products; None: d, as in KID.

    Raises:
        ValueError: fewer than two rows, other shapes, or numbers that are not finite.

    Source: Binkowski et al., Demystifying MMD GANs, 2018, section 4.
    """
    x, y = _two(x, y, 2)
    if paired and len(x) != len(y):
        raise ValueError(f"{len(x)} and {len(y)} features, expected as many of each where paired=True")
    width = float(x.shape[1] if scale is None else scale)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / width + 1.0) ** 3

    n, m = len(x), len(y)
    own_x = (_sum(kernel, x, x) - _diagonal(x, x, width)) / (n * (n - 1))
    own_y = (_sum(kernel, y, y) - _diagonal(y, y, width)) / (m * (m - 1))
    if paired:
        cross = (_sum(kernel, x, y) - _diagonal(x, y, width)) / (n * (n - 1))
    else:
        cross = _sum(kernel, x, y) / (n * m)
    return own_x + own_y - 2.0 * cross


def kid_subsets(
    x: object, y: object, *, subsets: int = 100, size: int = 1000, seed: int = 2020
) -> tuple[float, float]:
    """The mean and the standard deviation of KID over random subsets, as torch-fidelity reports it.

    The subsets are those of torch-fidelity for the same seed. The deviation says how much a subset differs
    from another one of the same images, and is no interval of KID.

    Args:
        x, y: (n, d) and (m, d).
        subsets: how many are drawn.
        size: rows in each, without repetition.
        seed: of the draws.

    Raises:
        ValueError: fewer rows than `size`, or as for `kid`.
    """
    x, y = _two(x, y, 2)
    if not 2 <= size <= min(len(x), len(y)):
        raise ValueError(f"size={size} for {len(x)} and {len(y)} features, expected 2 to the smaller number")
    if subsets < 1:
        raise ValueError(f"subsets={subsets}, expected at least 1")
    draw = np.random.RandomState(seed)
    found = []
    for _ in range(subsets):
        some_x = x[draw.choice(len(x), size, replace=False)]
        found.append(kid(some_x, y[draw.choice(len(y), size, replace=False)]))
    return float(np.mean(found)), float(np.std(found))


def cmmd(x: object, y: object, *, sigma: float = 10.0, scale: float = 1000.0) -> float:
    """CMMD: scale times the squared MMD with kernel exp(-|x - y|^2 / (2 sigma^2)), of CLIP's unit embeddings.

    The biased estimate (means over all pairs, i = j among them), as the published code has it: it is above 0
    by about scale times the mean of (1 - k) / n + (1 - k) / m, which two equal distributions show too.

    Args:
        x, y: (n, d) and (m, d), of length 1.
        sigma: width of the kernel.
        scale: factor.

    Raises:
        ValueError: no rows, other shapes, or numbers that are not finite.

    Source: Jayasumana et al., Rethinking FID: towards a better evaluation metric for image generation, 2024.
    """
    x, y = _two(x, y, 1)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2.0 * (a @ b.T)
        # 1 - k, so that the digits that the three means share do not cancel.
        return -np.expm1(-np.maximum(squared, 0.0) / (2.0 * sigma**2))

    n, m = len(x), len(y)
    apart = 2.0 * _sum(kernel, x, y) / (n * m) - _sum(kernel, x, x) / n**2 - _sum(kernel, y, y) / m**2
    return scale * apart


def fid(x: object, y: object) -> float:
    """FID: the squared Frechet distance of Gaussians with the means and covariances of two sets of features.

        |mean_x - mean_y|^2 + tr C_x + tr C_y - 2 tr (C_x C_y)^(1/2)

    With C_x = A' A and C_y = B' B for the centred features over sqrt(n - 1), the last trace is the sum of the
    singular values of A B': no square root of a nearly singular product is taken, and it is right also
    for fewer images than features.

    The estimate is above the distance of the distributions, the more so the fewer images there are (two
    halves of one set do not give 0). Only values from equal numbers of images can be compared.

    Args:
        x, y: (n, d) and (m, d), at least two each.

    Raises:
        ValueError: fewer than two rows, other shapes, or numbers that are not finite.

    Source: Heusel et al., GANs trained by a two time-scale update rule converge to a local Nash equilibrium,
    2017; Chong and Forsyth, Effectively unbiased FID and Inception Score and where to find them, 2020.
    """
    x, y = _two(x, y, 2)
    between = x.mean(0) - y.mean(0)
    roots = [_triangle((z - z.mean(0)) / np.sqrt(len(z) - 1.0)) for z in (x, y)]
    return _frechet(between, *roots)


def frechet_distance(mean_x: object, covariance_x: object, mean_y: object, covariance_y: object) -> float:
    """FID of two Gaussians given by their means (d,) and covariances (d, d), as reference files hold them.

    Raises:
        ValueError: other shapes, or a covariance that is not symmetric and positive.
    """
    means = [np.asarray(mean, np.float64) for mean in (mean_x, mean_y)]
    covariances = [np.asarray(each, np.float64) for each in (covariance_x, covariance_y)]
    d = means[0].shape[-1] if means[0].ndim else 0
    for mean, covariance in zip(means, covariances, strict=True):
        if mean.shape != (d,) or covariance.shape != (d, d):
            raise ValueError(
                f"mean of shape {mean.shape} with covariance {covariance.shape}, "
                f"expected ({d},) and ({d}, {d})"
            )
    return _frechet(means[0] - means[1], *map(_root_of, covariances))


def _frechet(between: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """From roots A, B of the covariances A' A and B' B."""
    shared = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(between @ between + (a**2).sum() + (b**2).sum() - 2.0 * shared)


def _triangle(a: np.ndarray) -> np.ndarray:
    """A matrix with the same A' A and no more rows than columns."""
    return np.asarray(np.linalg.qr(a, mode="r")) if len(a) > a.shape[1] else a


def _root_of(covariance: np.ndarray) -> np.ndarray:
    """A with A' A the covariance."""
    largest = float(np.abs(covariance).max(initial=0.0))
    if not np.allclose(covariance, covariance.T, rtol=1e-5, atol=1e-8 * largest):
        raise ValueError("a covariance that is not symmetric")
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    if values.min(initial=0.0) < -1e-6 * max(values.max(initial=0.0), 0.0):
        raise ValueError(f"a covariance with the eigenvalue {values.min():.3g}, expected none below 0")
    return np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T


def _sum(kernel: Callable[[np.ndarray, np.ndarray], np.ndarray], x: np.ndarray, y: np.ndarray) -> float:
    """The sum of a kernel over all pairs, a block of rows at a time."""
    return float(sum(kernel(x[i : i + _ROWS], y).sum() for i in range(0, len(x), _ROWS)))


def _diagonal(x: np.ndarray, y: np.ndarray, width: float) -> float:
    return float((((x * y).sum(1) / width + 1.0) ** 3).sum())


def _two(x: object, y: object, least: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < least:
        raise ValueError(
            f"features of shape {x.shape} and {y.shape}, expected (n, d) and (m, d) with n, m >= {least}"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("features that are not finite")
    return x, y
