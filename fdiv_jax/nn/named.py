"""The parameters of a module by their dotted names."""

from __future__ import annotations

from flax import nnx

from fdiv_jax.arrays import Parameters

__all__ = ["named_parameters"]


def named_parameters(module: nnx.Module) -> Parameters:
    """The parameters of a module by name, such as mid_block.resnets.0.conv1.kernel; no other state."""
    flat = nnx.to_flat_state(nnx.state(module, nnx.Param))
    return {".".join(map(str, path)): variable.get_value() for path, variable in flat}
