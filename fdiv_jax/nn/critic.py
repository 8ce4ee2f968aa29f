"""The critic of the variational losses: a small convolutional network with spectral normalisation.

Novello et al., A unified framework for diffusion model unlearning with f-divergence, arXiv 2509.21167, 2025;
Miyato et al., Spectral Normalization for Generative Adversarial Networks, 2018.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Float, Shaped

from fdiv_jax.arrays import FeatureMap, Masks, Predictions
from fdiv_jax.nn.convolution import conv_general_dilated

Matrix = Float[jax.Array, "left right"]
"""A kernel as a matrix: (height width inputs, outputs)."""
RightVector = Float[jax.Array, " right"]
MasksOfOneChannel = Shaped[jax.Array, "batch height width 1"]
PatchValues = Float[jax.Array, "batch patches_down patches_across"]
"""The critic's value v of every patch of every prediction."""


class SpectralVector(nnx.Variable):
    """The running estimate of a kernel's leading left singular vector. Not trained by gradients."""


def _iterate(matrix: Matrix, vector: RightVector) -> RightVector:
    """One step of power iteration towards the leading right singular vector."""
    left = matrix @ vector
    # XLA for a CPU has no library for a transposed matrix times a vector
    right = (left / (jnp.linalg.norm(left) + 1e-12)) @ matrix
    return right / (jnp.linalg.norm(right) + 1e-12)


class SpectralConv(nnx.Module):
    """A convolution whose kernel is divided by its largest singular value.

    The singular value sigma = u^T W v is estimated by power iteration on the kernel as a matrix
    W (height width inputs, outputs). `refresh` makes one iteration; applying the layer makes none, so that a
    forward pass is a pure function of its parameters (and the Jacobians of the theory are exact).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        stride: int,
        padding: int,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike,
        normalise: bool = True,
    ):
        """A square kernel of `size`, the same padding on all sides; not normalised unless `normalise`."""
        self.stride, self.padding, self.normalise = stride, padding, normalise
        scale = (inputs * size * size) ** -0.5
        shape = (size, size, inputs, outputs)
        self.kernel = nnx.Param(jax.random.uniform(rngs.params(), shape, param_dtype, -scale, scale))
        self.bias = nnx.Param(jnp.zeros((outputs,), param_dtype))
        start = jax.random.normal(rngs.params(), (outputs,), param_dtype)
        self.spectral = SpectralVector(start / jnp.linalg.norm(start))
        matrix = self._matrix()
        self.spectral[...] = jax.lax.fori_loop(0, 15, lambda _, u: _iterate(matrix, u), self.spectral[...])

    def _matrix(self) -> Matrix:
        return self.kernel[...].reshape(-1, self.kernel.shape[-1])

    def refresh(self) -> None:
        """One step of power iteration."""
        self.spectral[...] = _iterate(jax.lax.stop_gradient(self._matrix()), self.spectral[...])

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """n h w inputs -> n h' w' outputs."""
        kernel = self.kernel[...]
        if self.normalise:
            right = jax.lax.stop_gradient(self.spectral[...])
            left = jax.lax.stop_gradient(self._matrix() @ right)
            left = left / (jnp.linalg.norm(left) + 1e-12)
            sigma = left @ self._matrix() @ right
            kernel = kernel / sigma
        pad = ((self.padding, self.padding),) * 2
        out = conv_general_dilated(
            x, kernel, (self.stride, self.stride), pad, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return out + self.bias[...]


class Critic(nnx.Module):
    """T's pre-activation v_omega on a noise prediction and its loss mask.

    Three stride-2 convolutions of size 4 with spectral normalisation and leaky ReLU of slope 0.2, then two of
    size 3 at that resolution: `head_channels` features, and one value per patch.
    """

    def __init__(
        self,
        channels: int = 5,
        *,
        rngs: nnx.Rngs,
        hidden_channels: Sequence[int] = (64, 128, 256),
        head_channels: int = 512,
        param_dtype: DTypeLike = jnp.float32,
        spectral_norm: bool = True,
    ):
        """`channels` of the input: those of the noise prediction and one for the mask."""
        self.channels = channels
        widths = [channels, *hidden_channels]
        self.layers = nnx.List(
            [
                SpectralConv(a, b, 4, 2, 1, rngs, param_dtype, spectral_norm)
                for a, b in itertools.pairwise(widths)
            ]
        )
        self.head = SpectralConv(widths[-1], head_channels, 3, 1, 1, rngs, param_dtype, spectral_norm)
        self.out = SpectralConv(head_channels, 1, 3, 1, 1, rngs, param_dtype, spectral_norm)

    def refresh(self) -> None:
        """One step of power iteration in every layer."""
        for layer in (*self.layers, self.head, self.out):
            layer.refresh()

    def __call__(self, prediction: Predictions, mask: Masks | MasksOfOneChannel | None = None) -> PatchValues:
        """One value per patch.

        Args:
            prediction: n h w channels - 1.
            mask: n h w, n h w 1 or None (all ones): where the loss counts.

        Returns:
            n h' w', with h' about h / 8.

        Raises:
            ValueError: another number of channels than the critic was made for.
        """
        n, h, w, c = prediction.shape
        if c + 1 != self.channels:
            raise ValueError(f"critic for {self.channels - 1} channels and a mask, got {c} channels")
        if mask is None:
            mask = jnp.ones((n, h, w, 1), prediction.dtype)
        mask = jnp.broadcast_to(mask.reshape(mask.shape[0], h, w, 1), (n, h, w, 1)).astype(prediction.dtype)
        x = jnp.concatenate([prediction, mask], axis=-1)
        for layer in (*self.layers, self.head):
            x = jax.nn.leaky_relu(layer(x), 0.2)
        return self.out(x)[..., 0]
