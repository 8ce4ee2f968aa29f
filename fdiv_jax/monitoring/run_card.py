"""The model card of an unlearned model, written from the record of its run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fdiv_jax.evaluation.intervals import rate_interval
from fdiv_jax.files import JsonMapping, JsonObject, read_json
from fdiv_jax.monitoring._command import repeating
from fdiv_jax.pipeline.cards import block, code, model_card, table
from fdiv_jax.pipeline.shared import Base, Shared
from fdiv_jax.unlearning import UnlearningConfig
from fdiv_jax.unlearning.result import RESULT

__all__ = ["read_run", "run_card"]

_DESCRIPTION = "config.json"
_PROMPTS = 6
"""Pairs of prompts that are shown at the most."""
_TAGS = ("concept-erasure", "unlearning", "f-divergence", "jax")
_PAPER = (
    "Novello, Fontana, Cinque, Gunduz, Tonello, *A unified framework for diffusion model unlearning with "
    "f-divergence*, 2025, [arXiv:2509.21167](https://arxiv.org/abs/2509.21167)."
)
_LIMITS = """\
* **Erasure is not proof against attack.** What is unlearned here is the way from these prompts to the images.
  Prompts found by optimisation, learned embeddings, other languages or paraphrases may bring the concept back
  ([Pham et al. 2023](https://arxiv.org/abs/2308.01508), [Zhang et al. 2023](https://arxiv.org/abs/2310.11868)),
  and so may a few steps of fine-tuning, or adding this change to another model. Do not rely on it as the only
  safeguard.
* Other concepts, near ones above all, may be drawn worse than by the base, in ways that were not measured.
* What else is wrong with the base model is still there: its biases, and what it should not draw either."""


_COUNTED = "Counts by a classifier that learned on photographs; in brackets the 95 % interval (mid-P)."


def read_run(directory: Path) -> tuple[JsonObject, JsonObject]:
    """config.json and result.json of a run directory; empty where they cannot be read."""
    found = []
    for name in (_DESCRIPTION, RESULT):
        try:
            found.append(read_json(directory / name))
        except (OSError, ValueError):
            found.append({})
    return found[0], found[1]


def run_card(description: JsonMapping, summary: JsonMapping, base: Base, shared: Shared) -> str:
    """The text of the README.md beside what a run made.

    Args:
        description: the run's config.json, see `UnlearningResult.description`.
        summary: the run's result.json, see `UnlearningResult.summary`.
        base: the model that the run began with.
        shared: what lies beside the card.

    Raises:
        ValueError, TypeError: a description that is not one of a run.
    """
    config = UnlearningConfig.from_dict(description.get("config") or {})
    resolved: JsonMapping = description.get("resolved") or {}
    targets = ", ".join(code(each.target) for each in config.erasures)
    sections = {
        "What was unlearned": _unlearned(config, resolved),
        "How": _how(config, resolved, description, base),
        "Measured": _measured(summary, shared),
        "Limits": _LIMITS,
    }
    return (
        model_card(
            base,
            shared,
            title=f"{code(base.name)} without {targets}",
            introduction=_introduction(config, base, shared),
            sections={heading: text for heading, text in sections.items() if text},
            tags=_TAGS,
        )
        + f"\n## Source\n\n{_PAPER}\n"
    )


def _introduction(config: UnlearningConfig, base: Base, shared: Shared) -> str:
    what = {
        "diffusers": "A text-to-image model in the layout of diffusers",
        "single-file": "A text-to-image model as one checkpoint",
        "lora": f"A LoRA of rank {shared.rank}",
        "kohya": f"A LoRA of rank {shared.rank}, named as kohya's scripts name it,",
        "delta": "The tensors that changed",
    }[shared.form]
    ways = "; ".join(f"{code(each.target)} towards {_anchor(each.anchor)}" for each in config.erasures)
    verb = "for" if shared.low_rank or shared.form == "delta" else "from"
    return f"{what} {verb} {code(base.name)}, with concepts unlearned: {ways}."


def _anchor(anchor: str) -> str:
    known = {
        "superclass": "its superclass",
        "near": "a near concept",
        "empty": "the empty prompt",
        "negative": "its own negative (away from the concept)",
    }
    return known.get(anchor) or code(anchor)


def _unlearned(config: UnlearningConfig, resolved: JsonMapping) -> str:
    pairs: Sequence[Mapping[str, Any]] = resolved.get("pairs") or []
    rows = [(code(pair.get("target", "")), _prompt(pair.get("anchor", ""))) for pair in pairs[:_PROMPTS]]
    told = "At the prompts on the left the model was trained to do what the base does at those on the right."
    if any(each.anchor == "negative" for each in config.erasures):
        told += " Where the anchor is negative, it was trained away from the concept instead."
    blocks = [told, table(("target prompt", "anchor prompt"), rows)] if rows else []
    if len(pairs) > _PROMPTS:
        blocks.append(f"and {len(pairs) - _PROMPTS} more prompts.")
    retained = resolved.get("retained") or []
    if retained:
        some = ", ".join(_prompt(prompt) for prompt in retained[:_PROMPTS])
        more = f" and {len(retained) - _PROMPTS} more" if len(retained) > _PROMPTS else ""
        blocks.append(f"Retained, compared with the base in every batch: {some}{more}.")
    else:
        blocks.append("No prompts were retained: nothing held the rest of the model in place.")
    return "\n\n".join(blocks)


def _prompt(prompt: object) -> str:
    return code(prompt) if str(prompt).strip() else "the empty prompt"


def _how(config: UnlearningConfig, resolved: JsonMapping, description: JsonMapping, base: Base) -> str:
    divergence: JsonMapping = resolved.get("divergence") or {}
    trained: JsonMapping = resolved.get("trainable") or {}
    rows = []
    if config.method == "edit":
        rows.append(("method", "closed-form edit of the cross-attentions (UCE)"))
    else:
        generator = divergence.get("generator")
        formula = f": f(t) = {code(generator)}, f''(1) = {divergence.get('curvature')}" if generator else ""
        rows += [
            ("divergence", code(config.divergence) + formula),
            ("loss", f"{config.loss}, scale {config.scale}, sigma {config.sigma:g}"),
            ("steps", f"{config.steps} of {config.batch_size} samples"),
            ("optimiser", f"{config.optimiser.name}, learning rate {config.learning_rate:g}"),
        ]
    if trained:
        own = f", as a LoRA of rank {config.lora.rank}" if config.lora.rank is not None else ""
        count = f", {trained['parameters']:,} of {trained['of']:,} parameters" if "of" in trained else ""
        rows.append(("trained", f"{code(config.trainable)}{count}{own}"))
    rows.append(("seed", str(config.seed)))
    if description.get("devices"):
        rows.append(("devices", ", ".join(code(device) for device in description["devices"][:8])))
    versions: JsonMapping = description.get("versions") or {}
    if versions:
        rows.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    model: JsonMapping = description.get("model") or {}
    if model.get("sha256"):
        rows.append(("sha256 of the base's parameters", code(model["sha256"])))
    public = {**model, **base.loaded_with, "name": base.name, "loras": base.loras}
    if config.images.folder is not None:  # where it lies is nobody's business
        folder = Path(config.images.folder).name
        config = dataclasses.replace(config, images=dataclasses.replace(config.images, folder=folder))
    again = f"To make it again:\n\n{block(repeating(public, config))}"
    return f"{table(('setting', 'value'), rows)}\n\n{again}"


def _measured(summary: JsonMapping, shared: Shared) -> str:
    blocks = []
    counts = _counts(summary.get("judged"))
    if counts:
        blocks += [
            counts,
            _COUNTED,
        ]
        if shared.low_rank and any(share > 1e-3 for share in shared.left_out.values()):
            left = ", ".join(
                f"{100 * share:.2g} % of the {name}'s" for name, share in shared.left_out.items()
            )
            blocks.append(f"The counts are those of the whole model. This LoRA leaves out {left} change.")
    first, last = summary.get("m_first"), summary.get("m_last")
    if isinstance(first, (int, float)) and isinstance(last, (int, float)):
        steps = f"means of the first and the last {summary.get('averaged_over_steps', 'few')} steps"
        went = "fell" if last < first else "did not fall: it went"
        told = f"The squared distance m of the two predictions {went} from {first:.3g} to {last:.3g}"
        blocks.append(f"{told} ({steps}).")
    blocks += [f"**Warning of the run:** {code(warning)}" for warning in summary.get("warnings") or ()]
    if not counts:
        blocks.append("What the model draws was not counted: look at its images before you rely on it.")
    return "\n\n".join(blocks)


def _counts(judged: object) -> str:
    """The table of what the judge saw before and after; empty where it was not asked."""
    if not isinstance(judged, Mapping):
        return ""
    rows = []
    for told, shown, of in (
        ("images at the target's prompts that show the target", "target_shown", "target_images"),
        ("images at other prompts that show what was asked for", "retained_right", "retained_images"),
    ):
        cells = [_rate(judged.get(when), shown, of) for when in ("before", "after")]
        if any(cells):
            rows.append((told, *(cell or "not counted" for cell in cells)))
    return table(("", "base", "unlearned"), rows) if rows else ""


def _rate(counts: object, shown: str, of: str) -> str:
    if not isinstance(counts, Mapping):
        return ""
    number, total = counts.get(shown), counts.get(of)
    if not isinstance(number, int) or not isinstance(total, int) or not 0 <= number <= total or total < 1:
        return ""
    rate = rate_interval(number, total)
    return f"{number} of {total} ({100 * rate.low:.0f} to {100 * rate.high:.0f} %)"
