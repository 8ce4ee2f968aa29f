"""What the command `attack` finds for an attacker: prompts, images, a classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fdiv_jax.cli._unlearning_options import is_world
from fdiv_jax.evaluation.attacks import (
    ATTACKS,
    Attack,
    Benign,
    Campaign,
    ConceptImages,
    Drawing,
    Recogniser,
)
from fdiv_jax.unlearning import Erasure, resolve_all, resolve_retained
from fdiv_jax.unlearning.concepts import target_words
from fdiv_jax.unlearning.library import known_concepts

if TYPE_CHECKING:
    from fdiv_jax.pipeline import Concept, TextToImagePipeline

__all__ = ["attacks_named", "campaign_for"]

_RETAINED = 90
"""Images of other concepts for attacks that see no others."""
_ALL = "all"


def attacks_named(names: Sequence[str]) -> dict[str, Attack]:
    """The attacks of these names.

    Raises:
        ValueError: none, or an unknown one.
    """
    import difflib

    if not names:
        raise ValueError(f"--with names no attack; expected some of {', '.join(ATTACKS)}, or {_ALL}")
    for name in names:
        if name not in (*ATTACKS, _ALL):
            near = difflib.get_close_matches(name, ATTACKS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"no attack {name!r}{hint}; expected some of {', '.join(ATTACKS)}, or {_ALL}")
    return dict(ATTACKS) if _ALL in names else {name: ATTACKS[name] for name in dict.fromkeys(names)}


def campaign_for(
    base: TextToImagePipeline,
    target: str,
    attacks: Mapping[str, Attack],
    *,
    prompts: Sequence[str],
    folder: Path | None,
    number: int,
    budget: int,
    seeds: Sequence[int],
    drawing: tuple[int, int, float, str],
    batch: tuple[int, int],
    clip: str | None = None,
    against: str | None = None,
) -> tuple[Campaign, list[str]]:
    """The campaign, and what to tell of where its images come from.

    Args:
        base: the frozen model.
        target: the concept.
        attacks: by name.
        prompts: that show the target; empty: those of the concept.
        folder: of images of the concept; None: see `fdiv-jax attack --help`.
        number: images of the concept where they are not from a folder.
        budget, seeds: of the searches.
        drawing: images at fresh noise, steps, guidance, sampler.
        batch: samples per step, and in how many parts.
        clip: a CLIP model that recognises the concept; None: the judge of the embedded world.
        against: what CLIP tells the concept from; None: its super-class.

    Raises:
        ValueError: an unknown target, no classifier for this model, or a folder without images.
    """
    known = known_concepts(base.concepts)
    erasure = Erasure(target, "empty", tuple(prompts))
    shown = [pair.target for pair in resolve_all(known, [erasure])]
    word = target_words(known, [erasure])[0]
    concept = known.find(target)
    name = target if concept is None else concept.name
    recognise, recogniser = _recogniser(base, name, concept, clip, against)
    count, steps, guidance, sampler = drawing
    look = Drawing(tuple(range(count)), steps, guidance, sampler)
    images, told = _images(base, name, shown, folder, number, look)
    tuned = any(isinstance(attack, Benign) for attack in attacks.values())
    retained = _retained(base, name, known, look) if tuned else None
    campaign = Campaign(
        name,
        word,
        tuple(shown),
        images,
        recognise,
        attacks,
        retained,
        budget,
        tuple(seeds),
        look,
        batch[0],
        batch[1],
        recogniser,
    )
    return campaign, told


def _recogniser(
    base: TextToImagePipeline, target: str, concept: Concept | None, clip: str | None, against: str | None
) -> tuple[Recogniser, str]:
    if clip is not None:
        from fdiv_jax.evaluation import ClipScorer, concept_text
        from fdiv_jax.evaluation.attacks import clip_recogniser

        other = against or ("" if concept is None else concept.superclass)
        if not other:
            raise ValueError(f"--clip tells {target!r} from nothing; expected --against, such as 'a shoe'")
        text = concept_text(target, style=concept is not None and concept.kind == "style")
        recognise = clip_recogniser(ClipScorer.load(clip), text, concept_text(other))
        return recognise, f"CLIP {clip}: {text!r} rather than {concept_text(other)!r}"
    if not is_world(base):
        raise ValueError(
            f"no judge knows what {base.name or 'this model'} draws; expected --clip MODEL, or fashion"
        )
    from fdiv_jax.worlds import load_judge
    from fdiv_jax.worlds.attack_material import judge_recogniser

    return judge_recogniser(load_judge(), target), f"the judge of fashion: {target}"


def _images(
    base: TextToImagePipeline,
    target: str,
    prompts: Sequence[str],
    folder: Path | None,
    number: int,
    look: Drawing,
) -> tuple[ConceptImages, list[str]]:
    if folder is not None:
        from fdiv_jax.unlearning.user_images import read_images

        h, w, _ = base.latent_shape
        factor = base.vae.config.downsampling
        found = read_images(folder, (h * factor, w * factor), resize=True)
        captions = tuple(
            prompts[i % len(prompts)] if text is None else text for i, text in enumerate(found.captions)
        )
        return ConceptImages(found.pixels, captions), []
    if is_world(base):
        from fdiv_jax.worlds.attack_material import real_images

        try:
            return real_images(target, number), [f"the attacker has {number} real photographs"]
        except FileNotFoundError:
            pass
    drawn = _drawn(base, prompts, number, look)
    return drawn, [f"the attacker has {number} images that the base draws"]


def _retained(base: TextToImagePipeline, target: str, known: Mapping, look: Drawing) -> ConceptImages:
    if is_world(base):
        from fdiv_jax.worlds.attack_material import real_images_without

        try:
            return real_images_without([target], _RETAINED)
        except FileNotFoundError:
            pass
    prompts = [prompt for prompt in resolve_retained(known, target) if prompt]
    if not prompts:
        raise ValueError(f"benign: no prompts of other concepts beside {target!r}; expected a known target")
    return _drawn(base, prompts, _RETAINED, look)


def _drawn(base: TextToImagePipeline, prompts: Sequence[str], number: int, look: Drawing) -> ConceptImages:
    """Images for the attacker, at noise that no search is judged by."""
    from fdiv_jax.evaluation.attacks.case import search_seeds

    chosen = [prompts[i % len(prompts)] for i in range(number)]
    drawing = Drawing(tuple(search_seeds(999, number)), look.steps, look.guidance, look.sampler)
    return ConceptImages(np.asarray(drawing.draw(base, chosen)), tuple(chosen))
