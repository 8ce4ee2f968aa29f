"""How far two sets of eigenvalues are apart, with double roots treated as what they are."""

from __future__ import annotations

import numpy as np

__all__ = ["spectrum_error"]

_NEAR = 1e-4


def _paired(predicted: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """`measured` in the order of `predicted`, nearest pairs first."""
    distance = np.abs(predicted[:, None] - measured[None, :])
    order = np.empty(len(predicted), int)
    for flat in np.argsort(distance, axis=None):
        i, j = np.unravel_index(flat, distance.shape)
        if np.isfinite(distance[i, j]):
            order[i] = j
            distance[i, :], distance[:, j] = np.inf, np.inf
            distance[i, j] = np.inf
    return measured[order]


def spectrum_error(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Largest relative error between two spectra of the same size.

    A simple eigenvalue counts by |difference| / |predicted|. Two that (nearly) coincide are a square root
    away from the matrix: rounding of 1e-16 in its entries moves each by 1e-8. What the matrix does determine
    is their mean and their squared half difference, so a cluster of two counts by the larger of |mean error|
    / |mean| and |error of the squared half difference| / |mean|^2. Larger clusters are refused.
    """
    predicted, measured = np.asarray(predicted, complex), np.asarray(measured, complex)
    if predicted.shape != measured.shape or predicted.ndim != 1:
        raise ValueError(
            f"expected two spectra of one size, got shapes {predicted.shape} and {measured.shape}"
        )
    if not (np.isfinite(predicted).all() and np.isfinite(measured).all()) or (predicted == 0).any():
        raise ValueError("expected finite eigenvalues, the predicted ones not zero")
    measured = _paired(predicted, measured)
    near = np.abs(predicted[:, None] - predicted[None, :]) < _NEAR * np.abs(predicted)[:, None]
    errors = []
    for i, row in enumerate(near):
        members = np.flatnonzero(row)
        if len(members) > 2:
            raise ValueError(f"expected at most double roots, got {predicted[members]}")
        if len(members) == 1:
            errors.append(abs(measured[i] - predicted[i]) / abs(predicted[i]))
            continue
        p, m = predicted[members], measured[members]
        middle = p.mean()
        errors.append(abs(m.mean() - middle) / abs(middle))
        errors.append(abs((m[0] - m[1]) ** 2 - (p[0] - p[1]) ** 2) / 4 / abs(middle) ** 2)
    return float(max(errors))
