"""Attacks that need no data: weights with fewer digits, or fewer weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from fdiv_jax.evaluation.attacks.case import Case, Probe, Tell
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.unlearning import Network

__all__ = ["Prune", "Quantise", "pruned", "quantised", "rounded_to_float8"]


def quantised(kernel: jax.Array, bits: int) -> jax.Array:
    """The kernel on a grid of 2^bits - 1 values of its own for each output channel.

    q = round(w / s), w' = s q, with s = max |w| / (2^(bits - 1) - 1) over the channel, so that 0 stays 0.
    """
    wide = kernel.astype(jnp.float32)
    largest = jnp.max(jnp.abs(wide), axis=tuple(range(kernel.ndim - 1)), keepdims=True)
    step = jnp.where(largest > 0, largest, 1.0) / (2 ** (bits - 1) - 1)
    return (jnp.round(wide / step) * step).astype(kernel.dtype)


def rounded_to_float8(kernel: jax.Array) -> jax.Array:
    """The kernel in eight bits with an exponent of four (e4m3), scaled to 448 for each output channel."""
    wide = kernel.astype(jnp.float32)
    largest = jnp.max(jnp.abs(wide), axis=tuple(range(kernel.ndim - 1)), keepdims=True)
    scale = 448.0 / jnp.where(largest > 0, largest, 1.0)
    return ((wide * scale).astype(jnp.float8_e4m3fn).astype(jnp.float32) / scale).astype(kernel.dtype)


def pruned(kernel: jax.Array, share: float) -> jax.Array:
    """The kernel without the share of its weights that is smallest in magnitude."""
    size = jnp.abs(kernel)
    return jnp.where(size > jnp.quantile(size.astype(jnp.float32), share), kernel, 0)


@dataclass(frozen=True)
class Quantise:
    """The UNet's kernels rounded to fewer bits.

    Source: Zhang et al., Catastrophic failure of LLM unlearning via quantization, 2025, for diffusion models.
    """

    axis: ClassVar[str] = "bits per weight removed, of 16"
    searches: ClassVar[bool] = False
    assumes: ClassVar[str] = "nothing: a user who runs the model in fewer bits"

    bits: tuple[int, ...] = (8, 6, 4)
    """Widths of the integers."""
    float8: bool = True
    """Look at e4m3 too, which counts as 8 bits and comes first."""

    def probes(self, case: Case, budget: int, tell: Tell) -> Iterator[Probe]:
        """The model in fewer and fewer bits."""
        if self.float8:
            tell(8, "fp8")
            yield _changed(case, 8, "fp8 e4m3", rounded_to_float8)
        for bits in sorted(self.bits, reverse=True):
            tell(16 - bits, f"int{bits}")
            yield _changed(case, 16 - bits, f"int{bits}", lambda kernel, bits=bits: quantised(kernel, bits))


@dataclass(frozen=True)
class Prune:
    """The UNet's kernels without their smallest weights."""

    axis: ClassVar[str] = "share of the weights removed"
    searches: ClassVar[bool] = False
    assumes: ClassVar[str] = "nothing: a user who prunes the model"

    shares: tuple[float, ...] = (0.1, 0.3, 0.5)
    """Shares of every kernel."""

    def probes(self, case: Case, budget: int, tell: Tell) -> Iterator[Probe]:
        """The model with fewer and fewer weights."""
        for share in sorted(self.shares):
            tell(round(100 * share), f"{share:.0%}")
            yield _changed(case, share, "", lambda kernel, share=share: pruned(kernel, share))


def _changed(case: Case, at: float, label: str, change: Callable[[jax.Array], jax.Array]) -> Probe:
    return Probe.of_prompts(at, with_kernels(case.pipe, change), case.prompts, label)


def with_kernels(pipe: TextToImagePipeline, change: Callable[[jax.Array], jax.Array]) -> TextToImagePipeline:
    """The pipeline with every kernel of the UNet changed; biases and norms stay, as deployments keep them."""
    parameters = Network.parameters(pipe.unet)
    new = {n: change(value) if n.endswith(".kernel") else value for n, value in parameters.items()}
    return pipe.replace(unet=Network(pipe.unet).module(new))
