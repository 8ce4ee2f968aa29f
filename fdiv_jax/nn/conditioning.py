"""The conditioning passed to a UNet beside the latents and the timestep."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Float

from fdiv_jax.arrays import Latents, PooledText, TextFeatures

ImageSizes = Float[jax.Array, "batch 6"]
"""(height, width, top, left, height, width) in pixels, see `TextConditioning`."""
GuidanceScales = Float[jax.Array, " batch"]
"""g of classifier-free guidance u + g (c - u), for a UNet that takes it as an input."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TextConditioning:
    """Text features and what some UNets take beside them; a pytree, so that `jax.tree.map` indexes and places
    it. The first axis of every array is the batch.

    Attributes:
        hidden: n l d, the features that the UNet attends to.
        pooled: n p, one vector per prompt, added to the time embedding (Stable Diffusion XL); None: none.
        time_ids: n 6: (height, width) of the original image, (top, left) of its crop and (height, width) of
            the image to draw, in pixels (XL); None: the size of the latents, not cropped, see `sized`.
        guidance: (n,), the guidance that a latent consistency model takes as an input; None: none.
        beside: n h w c, channels behind those of the latents (inpainting, InstructPix2Pix); None: none.

    Source: Podell et al., SDXL: Improving latent diffusion models for high-resolution image synthesis, 2023;
    Luo et al., Latent consistency models, 2023.
    """

    hidden: TextFeatures
    pooled: PooledText | None = None
    time_ids: ImageSizes | None = None
    guidance: GuidanceScales | None = None
    beside: Latents | None = None

    def sized(self, height: int, width: int) -> TextConditioning:
        """A copy with `time_ids` of an uncropped image of `height` x `width` px, unless it has its own or has
        no pooled text, to which they belong."""
        if self.time_ids is not None or self.pooled is None:
            return self
        ids = jnp.asarray([height, width, 0, 0, height, width], jnp.float32)
        return dataclasses.replace(self, time_ids=jnp.broadcast_to(ids, (self.pooled.shape[0], 6)))


Text = TextFeatures | TextConditioning
"""Text features n l d alone (Stable Diffusion 1 and 2), or with what else the UNet takes."""


def sized_text(text: Text, height: int, width: int) -> Text:
    """`text` with the image's size filled in where the form has a place for it and none is given."""
    return text.sized(height, width) if isinstance(text, TextConditioning) else text


def with_features(text: Text, found: Text) -> Text:
    """`text` with the features of `found`, and whatever else it holds."""
    if not isinstance(text, TextConditioning):
        return found
    if not isinstance(found, TextConditioning):
        return dataclasses.replace(text, hidden=found)
    return dataclasses.replace(text, hidden=found.hidden, pooled=found.pooled)
