"""Names for the arrays that cross the library's boundaries: axes, kind of number, meaning, unit.

`Float` is floating point of any precision, `Integer` an integer of any width, `Shaped` any number or boolean.
An axis of one name has one size within a call; an axis called _ may have any. The annotations cost nothing
when the library runs; the tests check them (tests/typechecks.py).
"""

import numpy as np
from jax import Array
from jaxtyping import Float, Integer, Key, PyTree, Real, Shaped, UInt8, UInt32

__all__ = [
    "AnyTimesteps",
    "Choice",
    "Count",
    "Distances",
    "Embeddings",
    "FeatureMap",
    "Figures",
    "Images",
    "Latents",
    "Masks",
    "Parameters",
    "PooledText",
    "Predictions",
    "PyTree",
    "RandomKey",
    "RandomKeys",
    "RealTimesteps",
    "Samples",
    "Scalar",
    "StoredImages",
    "TextFeatures",
    "Timestep",
    "Timesteps",
    "TokenFeatures",
    "TokenIds",
    "Trajectory",
]

Images = Float[Array, "batch image_height image_width colours"]
"""Images: -1 is black and 1 is white."""
StoredImages = UInt8[np.ndarray, "batch image_height image_width colours"]
"""Images as files hold them: 0 is black and 255 is white."""
Latents = Float[Array, "batch height width channels"]
"""Latents of images, or noise on them: about unit variance where scaled, as the UNet sees them."""
Predictions = Float[Array, "batch height width outputs"]
"""A UNet's raw output for latents: noise, velocity or x_0, as the schedule's `prediction_type` says."""
Samples = Float[Array, "batch *sample"]
"""Samples of a diffusion of any shape, one per row; latents are such."""
Trajectory = Float[Array, "steps batch *sample"]
"""Every x of a sampler, from the noise to the sample."""
FeatureMap = Float[Array, "batch _ _ _"]
"""Features inside a convolutional network, n h w c; layers change all sizes but the batch."""
Masks = Shaped[Array, "batch height width"]
"""Where the loss counts: 1 or True inside, 0 or False outside."""

Timestep = Integer[Array, ""]
"""A timestep of the schedule: 0 nearly clean, T - 1 nearly noise."""
Timesteps = Integer[Array, " batch"]
"""One timestep per sample."""
RealTimesteps = Real[Array, " batch"]
"""Timesteps that may lie between two of the schedule's, as some samplers' do."""
AnyTimesteps = Timesteps | Timestep
"""One timestep per sample, or one for all of them."""

TokenIds = Integer[Array, "batch tokens"]
"""Prompts as numbers of the tokenizer's vocabulary."""
TokenFeatures = Float[Array, "batch tokens features"]
"""One row of features per token: of a text, or of the patches of an image."""
TextFeatures = Float[Array, "batch tokens features"]
"""A text encoder's hidden states, one row per token."""
PooledText = Float[Array, "batch pooled"]
"""One vector per prompt."""
Embeddings = Float[Array, "batch embedding"]
"""One vector per sample, of its time, text or image."""

Distances = Float[Array, " batch"]
"""m of each sample: the squared distance of two Gaussians' means over their variance, without unit."""
Choice = Integer[Array, ""]
"""Index of one of several, such as of the divergences that one compiled step serves."""
Count = Integer[Array, ""]
"""How many, such as the steps done."""
Scalar = Float[Array, ""]
"""One number, such as a loss."""

RandomKey = Key[Array, ""] | UInt32[Array, "2"]
"""One key of `jax.random`, of the new or the old kind."""
RandomKeys = Key[Array, " batch"] | UInt32[Array, "batch 2"]
"""One key per sample."""

Parameters = dict[str, Array]
"""Parameters by their dotted names, such as mid_block.attentions.0.transformer_blocks.0.attn2.to_k.kernel."""
Figures = dict[str, Array]
"""Numbers to record, by name."""
