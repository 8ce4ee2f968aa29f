"""The web page of `fdiv-jax app`: explore a divergence; unlearn a concept of the embedded world and watch.

What the page computes is in `explorer` and `runs`, without gradio; `_page` lays it out, `server` serves it.
"""

from fdiv_jax.app.server import serve

__all__ = ["serve"]
