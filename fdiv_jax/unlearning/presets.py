"""Configurations named after what they reproduce: METHOD-CONCEPT, such as `fdmu-van-gogh` or `esd-x-snoopy`.

A method's settings are those that its authors publish, for Stable Diffusion 1.4 at 512 px; a concept is one
of the model's own or of the library. On the embedded world `fashion` every method is compared under one
budget, see docs/unlearning.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

from fdiv_jax.unlearning._validate import nearest
from fdiv_jax.unlearning.config import UnlearningConfig
from fdiv_jax.unlearning.config_parts import (
    AdversaryConfig,
    AnchorImagesConfig,
    CriticConfig,
    EditConfig,
    LoraConfig,
    OptimiserConfig,
    PreservationConfig,
    SaliencyConfig,
)

__all__ = ["METHODS", "preset", "preset_names"]

_IMAGES = AnchorImagesConfig(number=1000, sampler="dpmsolver++", steps=25, guidance=6.0, mirror=True)


def fdmu(target: str) -> UnlearningConfig:
    """f-DMU with the closed squared Hellinger loss, superclass anchor, cross-attention.

    Command: fdiv-jax unlearn MODEL --preset fdmu-van-gogh. Cost: 500 steps of 4 samples in 2 parts, 1000
    anchor images. Published (SD 2.1, van gogh): target CLIP score 0.624, accuracy 0.2; retained 0.672, 0.78.

    Source: Novello et al., arXiv 2509.21167, 2025.
    """
    return UnlearningConfig(
        target=target,
        divergence="squared_hellinger",
        retained=(),
        steps=500,
        batch_size=4,
        accumulation=2,
        learning_rate=2.8e-4,
        images=_IMAGES,
    )


def fdmu_chi2(target: str) -> UnlearningConfig:
    """f-DMU with the closed Pearson chi-squared loss; else as `fdmu`.

    Command: fdiv-jax unlearn MODEL --preset fdmu-chi2-van-gogh. Published (SD 2.1, van gogh): target CLIP
    score 0.628, accuracy 0.1; retained 0.672, 0.76. The gradient grows as exp(m): a norm of 1 is clipped to.

    Source: Novello et al., arXiv 2509.21167, 2025.
    """
    return _with(fdmu(target), divergence="pearson_chi2", optimiser=OptimiserConfig(clip_norm=1.0))


def fdmu_variational(target: str) -> UnlearningConfig:
    """f-DMU with the variational squared Hellinger loss: a critic on the noise prediction, 30 warm-up steps.

    Command: fdiv-jax unlearn MODEL --preset fdmu-variational-van-gogh. Published (SD 2.1, van gogh): target
    CLIP score 0.645, accuracy 0.5; retained 0.702, 0.88.

    Source: Novello et al., arXiv 2509.21167, 2025.
    """
    return _with(fdmu(target), loss="variational", critic=CriticConfig(learning_rate=1e-4, warmup=30))


def concept_ablation(target: str) -> UnlearningConfig:
    """Concept ablation: squared error to the current model at the anchor prompt, under stop-gradient.

    Command: fdiv-jax unlearn MODEL --preset concept-ablation-snoopy. Cost: 200 steps of 4 samples. Published
    (SD 2.1, van gogh, as reported by Novello et al.): target CLIP score 0.635, accuracy 0.2.

    Source: Kumari et al., Ablating concepts in text-to-image diffusion models, 2023.
    """
    return UnlearningConfig(
        target=target,
        divergence="kl",
        reference="current",
        retained=(),
        steps=200,
        batch_size=4,
        learning_rate=8e-6,
        optimiser=OptimiserConfig(b2=0.999, weight_decay=0.01),
        images=_IMAGES,
    )


def esd_x(target: str) -> UnlearningConfig:
    """ESD-x: squared error to the frozen model guided away from the target; the cross-attentions learn.

    Command: fdiv-jax unlearn MODEL --preset esd-x-van-gogh. Cost: 200 steps of one sample. Published (SD 2.1,
    van gogh, as reported by Novello et al.): target CLIP score 0.657, accuracy 0.6. Here x_t is a noised
    image that the frozen model drew at the target prompt with guidance 3, not a trajectory of the current
    model stopped half-way.

    Source: Gandikota et al., Erasing concepts from diffusion models, 2023.
    """
    return UnlearningConfig(
        target=target,
        anchor="negative",
        divergence="kl",
        trainable=r"\.attn2\.",
        retained=(),
        steps=200,
        batch_size=1,
        learning_rate=5e-5,
        optimiser=OptimiserConfig(b2=0.999),
        images=AnchorImagesConfig(number=200, steps=50, sampler="ddim", guidance=3.0, at="target"),
    )


def esd_u(target: str) -> UnlearningConfig:
    """ESD-u: as `esd_x`, but everything except the cross-attentions learns; for objects.

    Command: fdiv-jax unlearn MODEL --preset esd-u-snoopy. Cost: 200 steps of one sample. "Everything" is the
    paper's; the authors' later code leaves the normalisations out, for which add
    `--trainable '^(?!.*(\\.attn2\\.|norm))'`.

    Source: Gandikota et al., Erasing concepts from diffusion models, 2023.
    """
    return _with(esd_x(target), trainable=r"^(?!.*\.attn2\.)")


def doco(target: str) -> UnlearningConfig:
    """DoCo: a critic on predicted x_0, Jensen-Shannon, prior preservation with gradient surgery.

    Command: fdiv-jax unlearn MODEL --preset doco-van-gogh. Cost: 1000 steps of the critic alone, then 2000 of
    both. Published (SD 2.1, van gogh, as reported by Novello et al.): target CLIP score 0.737, accuracy 0.9.

    Source: Wu et al., Unlearning concepts in diffusion model via concept domain correction and concept
    preserving gradient, 2024.
    """
    return UnlearningConfig(
        target=target,
        divergence="jensen_shannon",
        loss="variational",
        retained=(),
        steps=2000,
        batch_size=4,
        learning_rate=6e-6,
        critic=CriticConfig(warmup=1000, sees="x0", generator="non-saturating"),
        preservation=PreservationConfig(weight=1.0, at="anchor", against="noise"),
        images=_IMAGES,
    )


def uce(target: str) -> UnlearningConfig:
    """UCE: to_k and to_v solved for in closed form, no training.

    Command: fdiv-jax unlearn MODEL --preset uce-van-gogh. Cost: one linear system of the text's width.

    Source: Gandikota et al., Unified concept editing in diffusion models, 2024.
    """
    return UnlearningConfig(target=target, method="edit", edit=EditConfig())


def rece(target: str) -> UnlearningConfig:
    """RECE: UCE, then the embedding by which the edited model still finds the target is edited away too.

    Command: fdiv-jax unlearn MODEL --preset rece-van-gogh. Cost: three linear systems of the text's width.
    The published weights are of sums over tokens, those here of means; its regularisation is 0.1 for nudity
    (3 rounds) and for objects that UCE erases well.

    Source: Gong et al., Reliable and efficient concept erasure of text-to-image diffusion models, 2024.
    """
    edit = EditConfig("rece", preserve=0.1, ridge=0.1, rounds=1, regularisation=1e-3)
    return UnlearningConfig(target=target, method="edit", edit=edit)


def speed(target: str) -> UnlearningConfig:
    """SPEED: the nearest edit of to_v that no retained token sees, filtered and augmented.

    Command: fdiv-jax unlearn MODEL --preset speed-van-gogh. Cost: an eigendecomposition of the text's width
    and a linear system for each matrix. Here every token from the end of the concept on is erased and every
    token of a retained prompt is held; the authors take the last word of each.

    Source: Li et al., SPEED: scalable, precise, and efficient concept erasure for diffusion models, 2026.
    """
    edit = EditConfig("speed", ridge=1.0, threshold=0.1, filtered=True, augment=10)
    return UnlearningConfig(target=target, method="edit", trainable=r"\.attn2\.to_v\.", edit=edit)


def refinement(target: str) -> UnlearningConfig:
    """The first stage of MACE alone: the tokens around the concept are seen as without it, in closed form.

    Command: fdiv-jax unlearn MODEL --preset refinement-snoopy. Cost: one linear system of the text's width.
    This is not MACE, whose second stage, a LoRA for each concept against attention to its tokens within a
    segmented object, is not built here: the concept's own tokens stay as they are.

    Source: Lu et al., MACE: mass concept erasure in diffusion models, 2024.
    """
    edit = EditConfig("refinement", preserve=0.0, ridge=1e3)
    return UnlearningConfig(target=target, method="edit", edit=edit)


def salun(target: str) -> UnlearningConfig:
    """SalUn: the half of the weights that matters most for the target learns the anchor's output instead.

    Command: fdiv-jax unlearn MODEL --preset salun-snoopy. Cost: one pass over 800 images for the mask, then
    500 steps of 8 samples and 8 retained ones. The weight is 2 alpha, alpha = 0.5: m / 2 is twice the mean
    over four channels that the authors have.

    Source: Fan et al., SalUn: empowering machine unlearning via gradient-based weight saliency, 2024.
    """
    return UnlearningConfig(
        target=target,
        divergence="kl",
        reference="current",
        trainable="full",
        steps=500,
        batch_size=8,
        learning_rate=1e-5,
        retained_share=0.0,
        optimiser=OptimiserConfig(b2=0.999),
        saliency=SaliencyConfig(share=0.5, guidance=7.5),
        preservation=PreservationConfig(weight=1.0, at="retained", against="noise", surgery=False),
        images=AnchorImagesConfig(number=800, steps=50, sampler="ddim", guidance=7.5, at="target"),
    )


def erasediff(target: str) -> UnlearningConfig:
    """EraseDiff: the retained loss is descended, the target's as far as the two gradients do not agree.

    Command: fdiv-jax unlearn MODEL --preset erasediff-snoopy. Cost: 160 steps of 16 samples and 16 retained
    ones. The inner steps of the published algorithm end in a number that is subtracted from the loss and has
    no gradient: they are left out. The authors' commands for Stable Diffusion have a constant factor of 1 in
    the place of the rule, which is `--preservation.balance None`. The weight is 2 because m / 2 is twice the
    mean over four channels that they have.

    Source: Wu et al., Erasing undesirable influence in diffusion models, 2024.
    """
    return UnlearningConfig(
        target=target,
        divergence="kl",
        reference="current",
        trainable=r"^(?!.*(\.attn2\.|time_embedding|conv_norm_out|conv_out))",
        steps=160,
        batch_size=16,
        learning_rate=1e-5,
        retained_share=0.0,
        optimiser=OptimiserConfig(b2=0.999),
        preservation=PreservationConfig(
            weight=2.0, at="retained", against="noise", surgery=False, balance=0.1
        ),
        images=AnchorImagesConfig(number=800, steps=50, sampler="ddim", guidance=7.5, at="target"),
    )


def spm(target: str) -> UnlearningConfig:
    """SPM: adapters of rank 1 on the transformers, away from the target, held at random text features.

    Command: fdiv-jax unlearn MODEL --preset spm-snoopy. Cost: 3000 steps of 4 samples and 4 anchored ones.
    The weight is twice the published 1000: m / 2 is twice the authors' mean over four channels. The adapter
    is merged into the model (and kept beside it as a LoRA): the facilitated transport, which scales it by
    the prompt when an image is drawn, is not built. x_t is as in `esd_x`; the learning rate falls along one
    cosine in the place of three.

    Source: Lyu et al., One-dimensional adapter to rule them all: concepts, diffusion models and erasing
    applications, 2024.
    """
    return UnlearningConfig(
        target=target,
        anchor="negative",
        divergence="kl",
        trainable=r"\.attentions\.\d+\.",
        retained=(),
        steps=3000,
        batch_size=4,
        learning_rate=1e-4,
        optimiser=OptimiserConfig(b2=0.999, weight_decay=0.01, schedule="cosine", warmup_steps=500),
        lora=LoraConfig(rank=1, alpha=1.0),
        preservation=PreservationConfig(weight=2000.0, at="random", surgery=False),
        images=AnchorImagesConfig(number=200, steps=30, sampler="ddim", guidance=3.0, at="target"),
    )


def advunlearn(target: str) -> UnlearningConfig:
    """AdvUnlearn: ESD under attack: each step first looks for an extra word that brings the concept back.

    Command: fdiv-jax unlearn MODEL --preset advunlearn-van-gogh. Cost: 200 steps as of ESD, then 800 of which
    each has an attack of 30 forward and backward passes before it. The authors train the text encoder against
    the embedding of a word before the prompt; here the cross-attentions learn, against the features in the
    place of the prompt's last padding token. The weight is 2 gamma, gamma = 1.

    Source: Zhang et al., Defensive unlearning with adversarial training for robust concept erasure in
    diffusion models, 2024.
    """
    return _with(
        esd_x(target),
        retained=None,
        retained_share=0.0,
        steps=1000,
        batch_size=5,
        learning_rate=1e-5,
        adversary=AdversaryConfig(steps=30, at="token", radius=3.0, after=200),
        preservation=PreservationConfig(weight=2.0, at="retained", surgery=False),
    )


METHODS: dict[str, Callable[[str], UnlearningConfig]] = {
    "fdmu": fdmu,
    "fdmu-chi2": fdmu_chi2,
    "fdmu-variational": fdmu_variational,
    "concept-ablation": concept_ablation,
    "esd-x": esd_x,
    "esd-u": esd_u,
    "doco": doco,
    "uce": uce,
    "rece": rece,
    "speed": speed,
    "refinement": refinement,
    "salun": salun,
    "erasediff": erasediff,
    "spm": spm,
    "advunlearn": advunlearn,
}
"""What a preset's name begins with, and the configuration for a target."""


def preset_names(concepts: Iterable[str]) -> list[str]:
    """Every preset for these concepts."""
    return [f"{method}-{_hyphened(concept)}" for method in METHODS for concept in concepts]


def preset(name: str, concepts: Iterable[str]) -> UnlearningConfig:
    """The configuration of a preset.

    Args:
        name: METHOD-CONCEPT, spaces of the concept's name as hyphens.
        concepts: the names of what the model, or the library, knows.

    Raises:
        ValueError: no such preset; names the nearest one.
    """
    names = list(concepts)
    for method in sorted(METHODS, key=len, reverse=True):
        if name.startswith(method + "-"):
            for concept in names:
                if name == f"{method}-{_hyphened(concept)}":
                    return METHODS[method](concept)
    raise ValueError(
        f"no preset {name!r}{nearest(name, preset_names(names)).removesuffix('?')}; presets are "
        f"METHOD-CONCEPT, of the methods {', '.join(METHODS)} and concepts such as "
        f"{', '.join(map(_hyphened, names[:4]))}"
    )


def _hyphened(concept: str) -> str:
    return "-".join(concept.lower().split())


def _with(config: UnlearningConfig, **changes: object) -> UnlearningConfig:
    return dataclasses.replace(config, **changes)  # pyright: ignore[reportArgumentType]
