"""The methods that the tables of `fashion` compare, by the names they have there.

What keeps the retained prompts: for formulas and ESD a share of each batch; for concept ablation, AdvUnlearn
and everything with a critic a squared error there (a critic that sees predictions in bulk hardly tells which
prompt has moved); for SalUn and EraseDiff the noise's error there; for SPM an error at random text features;
for UCE and RECE their preservation weight, for SPEED its constraint.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from fdiv_jax.files import JsonObject
from fdiv_jax.unlearning import (
    AdversaryConfig,
    CriticConfig,
    EditConfig,
    LoraConfig,
    OptimiserConfig,
    PreservationConfig,
    SaliencyConfig,
    UnlearningConfig,
)

__all__ = ["methods"]


def methods(base: UnlearningConfig, only: Collection[str] = ()) -> dict[str, UnlearningConfig]:
    """Every method's configuration by name, or those of some of them.

    Args:
        base: what all share: concepts, steps, batch, images.
        only: the names to take; empty: all of them.

    Raises:
        ValueError: a name that no method has.
    """
    held = {"retained_share": 0.0, "preservation": PreservationConfig(weight=10.0, at="retained")}
    critic = CriticConfig(learning_rate=1e-3, warmup=base.steps, steps=3)
    game = {"loss": "variational", "critic": critic, **held}
    negative = tuple(dataclasses.replace(each, anchor="negative") for each in base.concepts)
    rows: dict[str, JsonObject] = {
        **{
            f"f-DMU closed {name}": {"divergence": name}
            for name in ("kl", "squared_hellinger", "pearson_chi2", "jeffreys")
        },
        **{
            f"f-DMU exact {name}": {"divergence": name, "loss": "exact"}
            for name in ("jensen_shannon", "le_cam", "total_variation")
        },
        **{
            f"f-DMU variational {name}": {"divergence": name, **game}
            for name in ("kl", "squared_hellinger", "jensen_shannon", "pearson_chi2")
        },
        "concept ablation": {"divergence": "kl", "reference": "current", **held},
        "ESD-x": {"divergence": "kl", "concepts": negative, "trainable": r"\.attn2\.", **_at_target(base)},
        "ESD-u": {
            "divergence": "kl",
            "concepts": negative,
            "trainable": r"^(?!.*\.attn2\.)",
            "learning_rate": 1e-4,
            **_at_target(base),
        },
        "DoCo": {
            "divergence": "jensen_shannon",
            **game,
            "critic": dataclasses.replace(critic, sees="x0", generator="non-saturating"),
            "optimiser": OptimiserConfig(clip_norm=1.0),
        },
        "UCE": {"method": "edit"},
        "RECE": {"method": "edit", "edit": EditConfig("rece")},
        "SPEED": {"method": "edit", "trainable": r"\.attn2\.to_v\.", "edit": EditConfig("speed", ridge=1.0)},
        "refinement": {"method": "edit", "edit": EditConfig("refinement")},
        "SalUn": {
            **_pseudo_label(base),
            "trainable": "full",
            "saliency": SaliencyConfig(share=0.5),
            "preservation": PreservationConfig(1.0, "retained", "noise", surgery=False),
        },
        "EraseDiff": {
            **_pseudo_label(base),
            "trainable": r"^(?!.*(\.attn2\.|time_embedding|conv_norm_out|conv_out))",
            "preservation": PreservationConfig(1.0, "retained", "noise", surgery=False, balance=0.1),
        },
        "SPM": {
            "divergence": "kl",
            "concepts": negative,
            "trainable": r"\.attentions\.\d+\.",
            "lora": LoraConfig(rank=1, alpha=1.0),
            "preservation": PreservationConfig(10.0, "random", surgery=False),
            "retained_share": 0.0,
            **_at_target(base),
        },
        "AdvUnlearn": {
            "divergence": "kl",
            "concepts": negative,
            "trainable": r"\.attn2\.",
            "adversary": AdversaryConfig(5, "token", radius=3.0, after=base.steps // 5),
            "preservation": PreservationConfig(10.0, "retained", surgery=False),
            "retained_share": 0.0,
            **_at_target(base),
        },
        **{
            f"f-DMU closed {name} under attack": {"divergence": name, "adversary": AdversaryConfig(5)}
            for name in ("kl", "squared_hellinger")
        },
        **{
            f"f-DMU closed {name}, sum": {"divergence": name, "scale": "sum", "normalise_curvature": True}
            for name in ("kl", "squared_hellinger", "pearson_chi2")
        },
    }
    unknown = sorted(set(only) - set(rows))
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: no such method; expected some of {', '.join(rows)}")
    return {
        name: dataclasses.replace(base, **changes)
        for name, changes in rows.items()
        if not only or name in only
    }


def _pseudo_label(base: UnlearningConfig) -> JsonObject:
    """The current model at the anchor prompt is the label of images of the target; all weights may learn."""
    label = {"divergence": "kl", "reference": "current", "retained_share": 0.0, "learning_rate": 1e-4}
    return {**label, **_at_target(base)}


def _at_target(base: UnlearningConfig) -> JsonObject:
    return {"images": dataclasses.replace(base.images, at="target")}
