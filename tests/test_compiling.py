"""What the options of the compiler must not change: products and sums whose operands are computed in place.

The oracle is NumPy in float64. Memory is filled with nan and freed before each call, so that what a program
reads beyond its operands shows.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from fdiv_jax.compiling import jit

M, K, N = 80, 64, 96
DRAWN = np.random.default_rng(0)


def drawn(*shape):
    return DRAWN.standard_normal(shape).astype(np.float32)


def spread(xp, x, shape, axes=()):
    """An array, whose axes are these of `shape`, repeated along the others."""
    return xp.broadcast_to(xp.expand_dims(x, [a for a in range(len(shape)) if a not in axes]), shape)


def repeated(shape, axes, left):
    """(what it is, product with one side repeated, shapes of both operands)."""
    own = tuple(shape[a] for a in axes)
    if left:
        return f"left, own axes {axes}", lambda xp, a, b: spread(xp, a, shape, axes) @ b, own, (K, N)
    other = (*shape[:-2], M, K)
    return f"right {shape}, own axes {axes}", lambda xp, a, b: a @ spread(xp, b, shape, axes), other, own


CASES = [
    *(repeated((K, N), axes, left=False) for axes in ((), (0,), (1,))),
    *(repeated((4, K, N), axes, left=False) for axes in ((), (0,), (1, 2), (0, 1), (0, 2))),
    *(repeated((M, K), axes, left=True) for axes in ((), (0,), (1,))),
    ("right exp of a number", lambda xp, a, b: a @ xp.exp(spread(xp, b, (K, N))), (M, K), ()),
    ("right constant", lambda xp, a, b: a @ xp.full((K, N), 2.5, np.float32) * b, (M, K), ()),
    ("right turned", lambda xp, a, b: a @ spread(xp, b, (N, K)).T, (M, K), ()),
    ("left turned", lambda xp, a, b: spread(xp, a, (K, M)).T @ b, (), (K, N)),
    ("both a number", lambda xp, a, b: spread(xp, a, (M, K)) @ spread(xp, b, (K, N)), (), ()),
    ("right sliced", lambda xp, a, b: a @ b[3 : 3 + K, 5 : 5 + N], (M, K), (K + 8, N + 8)),
    ("right a vector", lambda xp, a, b: a @ spread(xp, b, (K,)), (M, K), ()),
    ("biased", lambda xp, a, b: a @ a.T + spread(xp, b, (M, M), (1,)), (M, K), (M,)),
    ("scaled", lambda xp, a, b: a @ a.T * spread(xp, b, (M, M)), (M, K), ()),
    ("summed", lambda xp, a, b: (spread(xp, b, (M, K), (0,)) * a).sum(1), (M, K), (M,)),
    ("largest", lambda xp, a, b: (spread(xp, b, (M, K), (1,)) * a).max(0), (M, K), (K,)),
]


@pytest.mark.parametrize(("compute", "left", "right"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_products_and_sums_do_not_depend_on_how_their_operands_came(compute, left, right):
    a, b = drawn(*left), drawn(*right)
    expected = compute(np, np.float64(a), np.float64(b))
    program = jit(lambda a, b: compute(jnp, a, b))
    for _ in range(3):
        for size in (K * N, N * K, 4 * K * N, 1 << 20):
            jnp.full(size, jnp.nan).block_until_ready()
        np.testing.assert_allclose(program(a, b), expected, rtol=1e-4, atol=1e-3)
