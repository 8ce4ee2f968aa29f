"""The conditioning passed to a UNet beside the latents and the timestep."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Float

from fdiv_jax.arrays import PooledText, TextFeatures

ImageSizes = Float[jax.Array, "batch 6"]
"""(height, width, top, left, height, width) in pixels, see `TextConditioning`."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TextConditioning:
    """The text conditioning of Stable Diffusion XL; a pytree, so that `jax.tree.map` indexes and places it.

    Attributes:
        hidden: n l d, the features that the UNet attends to.
        pooled: n p, one vector per prompt, added to the time embedding.
        time_ids: n 6: (height, width) of the original image, (top, left) of its crop and (height, width) of
            the image to draw, in pixels; None: the size of the latents, not cropped, see `sized`.

    Source: Podell et al., SDXL: Improving latent diffusion models for high-resolution image synthesis, 2023.
    """

    hidden: TextFeatures
    pooled: PooledText
    time_ids: ImageSizes | None = None

    def sized(self, height: int, width: int) -> TextConditioning:
        """A copy with `time_ids` of an uncropped image of `height` x `width` px, unless it has its own."""
        if self.time_ids is not None:
            return self
        ids = jnp.asarray([height, width, 0, 0, height, width], jnp.float32)
        return dataclasses.replace(self, time_ids=jnp.broadcast_to(ids, (self.pooled.shape[0], 6)))


Text = TextFeatures | TextConditioning
"""Text features n l d alone (Stable Diffusion 1 and 2), or with the additions of XL."""


def sized_text(text: Text, height: int, width: int) -> Text:
    """`text` with the image's size filled in where the form has a place for it and none is given."""
    return text.sized(height, width) if isinstance(text, TextConditioning) else text
