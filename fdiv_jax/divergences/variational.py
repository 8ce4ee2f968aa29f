"""The variational objective: the one function that training, measured spectra and figures share."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fdiv_jax.divergences.switch import DivergenceFunctions


def variational_value(
    d: DivergenceFunctions,
    v_p: ArrayLike,
    v_q: ArrayLike,
    *,
    activation: bool = True,
    weights: ArrayLike | tuple[ArrayLike, ArrayLike] | None = None,
) -> jax.Array:
    """E_P[T(v_p)] - E_Q[f*(T(v_q))], a lower bound of D_f(P||Q) that is tight at T = f'(dP/dQ).

    Args:
      d: the divergence. v_p: the critic's outputs on samples of P, any shape. v_q: the critic's outputs
      on samples of Q, any shape. activation: T = g(v) if true, T = v otherwise; then every v_q must lie
      in dom f*, else the value is -inf. weights: averaging weights that sum to one (the nodes of a
      quadrature), of the shape of v_p and v_q, or a pair
        of them, the first for P; plain means without.

    Returns:
      A scalar.

    Raises:
      ValueError: weights whose shape is not that of the outputs, or no samples.

    Source: Nguyen, Wainwright, Jordan 2010; Nowozin, Cseke, Tomioka, f-GAN, 2016, eq. 4.

    >>> from fdiv_jax.divergences import divergence
    >>> import numpy as np
    >>> variational_value(divergence("kl"), np.ones(3), np.ones(3)).item()  # T = f'(1) everywhere: D = 0
    0.0
    """
    v_p, v_q = jnp.asarray(v_p), jnp.asarray(v_q)
    for name, v in (("v_p", v_p), ("v_q", v_q)):
        if v.size == 0:
            raise ValueError(f"{name} holds no samples: shape {v.shape}")
    pair = weights if isinstance(weights, tuple) else (weights, weights)
    if len(pair) != 2:
        raise ValueError(f"weights must be one array or a pair of arrays, got {len(pair)}")
    if activation:
        return _mean(d.activation(v_p), pair[0]) - _mean(d.conjugate_of_activation(v_q), pair[1])
    return _mean(v_p, pair[0]) - _mean(d.conjugate(v_q), pair[1])


def _mean(values: jax.Array, weights: ArrayLike | None) -> jax.Array:
    if weights is None:
        return jnp.mean(values)
    weights = jnp.asarray(weights, values.dtype)
    if weights.shape != values.shape:
        raise ValueError(
            f"weights have shape {weights.shape}, expected that of the critic's outputs {values.shape}"
        )
    return jnp.sum(weights * values)
