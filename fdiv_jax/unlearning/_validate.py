"""Checks of configuration values: each returns the value in its proper type or says what was expected."""

from __future__ import annotations

from collections.abc import Sequence

from fdiv_jax.divergences import Divergence
from fdiv_jax.files.checks import (
    known_keys,
    nearest,
    one_of,
    real,
    set_field,
    span,
    text,
    texts,
    truth,
    whole,
)
from fdiv_jax.pipeline.inputs import LARGEST_SEED

__all__ = [
    "known_keys",
    "loss_exists",
    "nearest",
    "one_of",
    "prompts_to_preserve",
    "real",
    "seed",
    "set_field",
    "span",
    "text",
    "texts",
    "truth",
    "whole",
]


def seed(name: str, value: object) -> int:
    """A seed that JAX's keys tell from others."""
    return whole(name, value, least=0, below=LARGEST_SEED + 1)


def loss_exists(d: Divergence, family: str, normalise_curvature: bool) -> None:
    """Refuse what a divergence lacks: closed needs a closed form, equal curvature a finite f''(1)."""
    if family == "closed" and d.closed_form is None:
        raise ValueError(
            f"loss 'closed': {d.name} has no closed form in m; expected loss 'exact' (quadrature, any "
            "divergence) or 'variational'"
        )
    if normalise_curvature and not d.curvature.is_finite:
        raise ValueError(f"normalise_curvature: the curvature f''(1) of {d.name} is infinite")


def prompts_to_preserve(at: str | None, retained: Sequence[str]) -> None:
    """Refuse prior preservation at retained prompts where there are none."""
    if at == "retained" and not retained:
        raise ValueError("preservation.at 'retained': there are no retained prompts")
