"""What one training step is given: images, prompts, and where the loss counts."""

from __future__ import annotations

from dataclasses import dataclass

import jax
from jaxtyping import Float, Integer

from fdiv_jax.arrays import Latents, Masks, TextFeatures, TokenIds
from fdiv_jax.nn import Text

__all__ = ["Batch", "Prior"]


Positions = Integer[jax.Array, " batch"]
"""The place of each sample in the global batch."""
Guidance = Float[jax.Array, " batch"]
"""eta of each sample's negative guidance."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Prior:
    """Images and prompts at which the model is to stay as it is, see `PreservationConfig`.

    Attributes:
        latents: n h w c, x_0.
        text: the prompts' features, by the frozen text encoders.
        tokens: the prompts' token ids, where token embeddings learn.
        mask: n h w, where the term counts.
    """

    latents: Latents
    text: Text
    tokens: tuple[TokenIds, ...]
    mask: Masks


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """What a step is given.

    Attributes:
        latents: n h w c, x_0: images of the anchor prompts.
        target_text: features of the target prompts: n l d, or a `TextConditioning` of n.
        anchor_text: the same of the anchor prompts.
        mask: n h w, where the loss counts.
        position: (n,), int32, the place of each sample in the global batch. Its random draws depend on it,
            and so do not depend on how the batch is divided over devices or into parts.
        negative: (n,), eta of the negative guidance of each sample's reference; None where no sample has any.
        tokens: the target prompts' token ids, one array for each text encoder, where token embeddings learn.
        prior: images and prompts of prior preservation, or None.
        offset: n l d, what an adversary adds to the features of the target prompts; None: nothing.
    """

    latents: Latents
    target_text: Text
    anchor_text: Text
    mask: Masks
    position: Positions
    negative: Guidance | None = None
    tokens: tuple[TokenIds, ...] = ()
    prior: Prior | None = None
    offset: TextFeatures | None = None
