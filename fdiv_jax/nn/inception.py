"""Inception-v3 as FID uses it: the network of 2015, names as in pytorch-fid and torch-fidelity.

Szegedy et al., Rethinking the Inception architecture for computer vision, 2016. It differs from the network
of today's libraries: average pools leave the padding out, and the last block pools by the maximum.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from fdiv_jax.arrays import Embeddings, FeatureMap, Images

__all__ = ["InceptionV3"]

_EPSILON = 1e-3


class FrozenBatchNorm(nnx.Module):
    """(x - running_mean) / sqrt(running_var + 0.001) * scale + bias, with statistics that stay."""

    def __init__(self, channels: int):
        """Statistics of mean 0 and variance 1."""
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.running_mean = nnx.Param(jnp.zeros(channels))
        self.running_var = nnx.Param(jnp.ones(channels))

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """n h w c -> n h w c."""
        factor = self.scale[...] / jnp.sqrt(self.running_var[...] + _EPSILON)
        return (x - self.running_mean[...]) * factor + self.bias[...]


class ConvUnit(nnx.Module):
    """A convolution without bias, the norm, and ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int | tuple[int, int],
        rngs: nnx.Rngs,
        *,
        stride: int = 1,
        same: bool = False,
    ):
        """Random parameters; `same` keeps the resolution."""
        window = (size, size) if isinstance(size, int) else size
        self.conv = nnx.Conv(
            inputs,
            outputs,
            window,
            strides=(stride, stride),
            padding=[(side // 2, side // 2) for side in window] if same else "VALID",
            use_bias=False,
            rngs=rngs,
        )
        self.bn = FrozenBatchNorm(outputs)

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """n h w inputs -> n h' w' outputs."""
        return jax.nn.relu(self.bn(self.conv(x)))


class InceptionA(nnx.Module):
    """1 x 1, 5 x 5, twice 3 x 3, and an average pool, side by side."""

    def __init__(self, inputs: int, pooled: int, rngs: nnx.Rngs):
        """Random parameters; `pooled` is the width of the pool's branch."""
        self.branch1x1 = ConvUnit(inputs, 64, 1, rngs)
        self.branch5x5_1 = ConvUnit(inputs, 48, 1, rngs)
        self.branch5x5_2 = ConvUnit(48, 64, 5, rngs, same=True)
        self.branch3x3dbl_1 = ConvUnit(inputs, 64, 1, rngs)
        self.branch3x3dbl_2 = ConvUnit(64, 96, 3, rngs, same=True)
        self.branch3x3dbl_3 = ConvUnit(96, 96, 3, rngs, same=True)
        self.branch_pool = ConvUnit(inputs, pooled, 1, rngs)

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """n h w inputs -> n h w 224 + pooled."""
        large = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return _joined(self.branch1x1(x), large, double, self.branch_pool(average(x)))


class InceptionB(nnx.Module):
    """Halves the resolution by 3 x 3, twice 3 x 3, and a maximum pool."""

    def __init__(self, inputs: int, rngs: nnx.Rngs):
        """Random parameters."""
        self.branch3x3 = ConvUnit(inputs, 384, 3, rngs, stride=2)
        self.branch3x3dbl_1 = ConvUnit(inputs, 64, 1, rngs)
        self.branch3x3dbl_2 = ConvUnit(64, 96, 3, rngs, same=True)
        self.branch3x3dbl_3 = ConvUnit(96, 96, 3, rngs, stride=2)

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """n h w inputs -> n h/2 w/2 480 + inputs."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return _joined(self.branch3x3(x), double, _halved(x))


class InceptionC(nnx.Module):
    """1 x 1, 7 x 7 in two parts, the same twice, and an average pool."""

    def __init__(self, inputs: int, middle: int, rngs: nnx.Rngs):
        """Random parameters; `middle` is the width inside the branches."""
        across, down = (1, 7), (7, 1)
        self.branch1x1 = ConvUnit(inputs, 192, 1, rngs)
        self.branch7x7_1 = ConvUnit(inputs, middle, 1, rngs)
        self.branch7x7_2 = ConvUnit(middle, middle, across, rngs, same=True)
        self.branch7x7_3 = ConvUnit(middle, 192, down, rngs, same=True)
        self.branch7x7dbl_1 = ConvUnit(inputs, middle, 1, rngs)
        self.branch7x7dbl_2 = ConvUnit(middle, middle, down, rngs, same=True)
        self.branch7x7dbl_3 = ConvUnit(middle, middle, across, rngs, same=True)
        self.branch7x7dbl_4 = ConvUnit(middle, middle, down, rngs, same=True)
        self.branch7x7dbl_5 = ConvUnit(middle, 192, across, rngs, same=True)
        self.branch_pool = ConvUnit(inputs, 192, 1, rngs)

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """n h w inputs -> n h w 768."""
        large = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return _joined(self.branch1x1(x), large, double, self.branch_pool(average(x)))


class InceptionD(nnx.Module):
    """Halves the resolution by 3 x 3, 7 x 7 in two parts with 3 x 3, and a maximum pool."""

    def __init__(self, inputs: int, rngs: nnx.Rngs):
        """Random parameters."""
        self.branch3x3_1 = ConvUnit(inputs, 192, 1, rngs)
        self.branch3x3_2 = ConvUnit(192, 320, 3, rngs, stride=2)
        self.branch7x7x3_1 = ConvUnit(inputs, 192, 1, rngs)
        self.branch7x7x3_2 = ConvUnit(192, 192, (1, 7), rngs, same=True)
        self.branch7x7x3_3 = ConvUnit(192, 192, (7, 1), rngs, same=True)
        self.branch7x7x3_4 = ConvUnit(192, 192, 3, rngs, stride=2)

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """n h w inputs -> n h/2 w/2 512 + inputs."""
        large = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return _joined(self.branch3x3_2(self.branch3x3_1(x)), self.branch7x7x3_4(large), _halved(x))


class InceptionE(nnx.Module):
    """1 x 1, 3 x 3 in two parts side by side, the same after 3 x 3, and a pool."""

    def __init__(self, inputs: int, pool: Callable[[FeatureMap], FeatureMap], rngs: nnx.Rngs):
        """Random parameters; `pool` keeps the size."""
        across, down = (1, 3), (3, 1)
        self.pool = pool
        self.branch1x1 = ConvUnit(inputs, 320, 1, rngs)
        self.branch3x3_1 = ConvUnit(inputs, 384, 1, rngs)
        self.branch3x3_2a = ConvUnit(384, 384, across, rngs, same=True)
        self.branch3x3_2b = ConvUnit(384, 384, down, rngs, same=True)
        self.branch3x3dbl_1 = ConvUnit(inputs, 448, 1, rngs)
        self.branch3x3dbl_2 = ConvUnit(448, 384, 3, rngs, same=True)
        self.branch3x3dbl_3a = ConvUnit(384, 384, across, rngs, same=True)
        self.branch3x3dbl_3b = ConvUnit(384, 384, down, rngs, same=True)
        self.branch_pool = ConvUnit(inputs, 192, 1, rngs)

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """n h w inputs -> n h w 2048."""
        once = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return _joined(
            self.branch1x1(x),
            self.branch3x3_2a(once),
            self.branch3x3_2b(once),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool(self.pool(x)),
        )


class InceptionV3(nnx.Module):
    """Images to the 2048 features of the last pool; the classifier behind them is left out."""

    def __init__(self, *, rngs: nnx.Rngs):
        """A network with random parameters."""
        self.Conv2d_1a_3x3 = ConvUnit(3, 32, 3, rngs, stride=2)
        self.Conv2d_2a_3x3 = ConvUnit(32, 32, 3, rngs)
        self.Conv2d_2b_3x3 = ConvUnit(32, 64, 3, rngs, same=True)
        self.Conv2d_3b_1x1 = ConvUnit(64, 80, 1, rngs)
        self.Conv2d_4a_3x3 = ConvUnit(80, 192, 3, rngs)
        self.Mixed_5b = InceptionA(192, 32, rngs)
        self.Mixed_5c = InceptionA(256, 64, rngs)
        self.Mixed_5d = InceptionA(288, 64, rngs)
        self.Mixed_6a = InceptionB(288, rngs)
        self.Mixed_6b = InceptionC(768, 128, rngs)
        self.Mixed_6c = InceptionC(768, 160, rngs)
        self.Mixed_6d = InceptionC(768, 160, rngs)
        self.Mixed_6e = InceptionC(768, 192, rngs)
        self.Mixed_7a = InceptionD(768, rngs)
        self.Mixed_7b = InceptionE(1280, average, rngs)
        self.Mixed_7c = InceptionE(2048, largest, rngs)

    def __call__(self, images: Images) -> Embeddings:
        """n h w 3 (-1 to 1, 75 pixels or more a side; FID's are 299) -> n 2048.

        Raises:
            ValueError: images of another shape or too small.
        """
        if images.ndim != 4 or images.shape[-1] != 3 or min(images.shape[1:3]) < 75:
            raise ValueError(
                f"images of shape {images.shape}, expected (n, h, w, 3) of 75 pixels a side or more"
            )
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(images)))
        x = _halved(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(_halved(x))))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return jnp.mean(x, axis=(1, 2))


def _joined(*branches: FeatureMap) -> FeatureMap:
    return jnp.concatenate(branches, axis=-1)


def average(x: FeatureMap) -> FeatureMap:
    """3 x 3 means that keep the size, of the pixels inside the image only."""
    return nnx.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def largest(x: FeatureMap) -> FeatureMap:
    return nnx.max_pool(x, (3, 3), padding="SAME")


def _halved(x: FeatureMap) -> FeatureMap:
    return nnx.max_pool(x, (3, 3), strides=(2, 2))
