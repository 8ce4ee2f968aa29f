"""Rematerialisation: activations that the backward pass computes again instead of keeping them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar, get_args

import jax
from flax import nnx

from fdiv_jax.arrays import PyTree
from fdiv_jax.nn.layers import ModuleT, with_setting

__all__ = ["Remat", "RematModule", "rematerialised", "with_remat"]

Remat = Literal["none", "blocks", "full"]
T = TypeVar("T")


class RematModule(nnx.Module):
    """A module that has its parts computed again where it is asked to.

    `remat` is part of its structure, so that functions are compiled for it; see `with_remat`.
    """

    remat: Remat = "none"


def with_remat(module: ModuleT, remat: Remat) -> ModuleT:
    """`module` with this rematerialisation in its backward pass; parameters and values are the same.

    Args:
        module: a UNet.
        remat: "none" keeps every activation. "blocks" keeps the input of each residual block with its
            transformer, and computes what is inside once more: a third of a step's arithmetic more.
            "full" keeps only the inputs of the levels, of equal resolution, and within the level that is
            being differentiated those of the blocks: two thirds more.

    Raises:
        ValueError: an unknown word.

    Source: Chen, Xu, Zhang, Guestrin, Training deep nets with sublinear memory cost, 2016.
    """
    if remat not in get_args(Remat):
        raise ValueError(f"remat {remat!r}, expected one of {', '.join(get_args(Remat))}")
    return with_setting(module, RematModule, "remat", remat)


def rematerialised(function: Callable[..., T], condition: bool) -> Callable[..., T]:
    """`function(modules, *arrays)`, keeping nothing but its arguments where the condition holds.

    Args:
        function: of a module, or a tuple of modules, and pytrees of arrays.
        condition: whether the backward pass is to run it again.
    """
    if not condition:
        return function

    def run(modules: PyTree, *arrays: PyTree) -> T:
        graph, state = nnx.split(modules)
        return jax.checkpoint(lambda state, *arrays: function(nnx.merge(graph, state), *arrays))(
            state, *arrays
        )

    return run
