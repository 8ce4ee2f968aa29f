"""Attacks on several models, each with its ceiling and its floor, kept in a directory as they go on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fdiv_jax.arrays import StoredImages
from fdiv_jax.checkpoints import atomic_file, clean_leftovers
from fdiv_jax.evaluation.attacks.case import (
    FIRST_SEARCH_SEED,
    Attack,
    Case,
    ConceptImages,
    Drawing,
    Recogniser,
    settings_of,
)
from fdiv_jax.evaluation.attacks.curves import FLOOR, Curve, Outcome, Point, outcome
from fdiv_jax.evaluation.images import pipeline_digest
from fdiv_jax.files import JsonObject, check_no_links, parse_json, read_json
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.unlearning import check_output

__all__ = ["FLOOR_NAME", "FROZEN", "Campaign", "Display", "Picture", "Report", "attack_models"]

FROZEN, FLOOR_NAME = "frozen", "floor"
"""What the frozen model and the floor are called among the models."""
SHOWN = 8
"""Images of a search that are kept for people to look at."""
DRAWN_BY_THE_BASE = 0.5
"""Share of images at the concept's prompts in which it must be recognised on the frozen model."""

Display = Callable[[str, int, int], None]
"""Called with what goes on, how much of it is done, and how much there is."""
Picture = Callable[[Path, StoredImages, StoredImages], None]
"""Writes images before and after an attack, of the same noise, as one picture."""


@dataclass(frozen=True, eq=False)
class Campaign:
    """What is tried, on which concept, and how its success is seen.

    Attributes:
        target: the concept's name.
        word: what names it in its prompts.
        prompts: that show it.
        images: of it, for the attacker.
        recognise: the classifier.
        attacks: by name.
        retained: images of other concepts, with their prompts, for attacks that never see this one.
        budget: of every search, in the attack's own unit.
        seeds: of the searches; an attack that does not search is made once.
        drawing: how fresh images are drawn; the same noise for every model.
        batch, accumulation: samples per step, and the parts that they are computed in.
        recogniser_name: what is written down of the classifier.
    """

    target: str
    word: str
    prompts: tuple[str, ...]
    images: ConceptImages
    recognise: Recogniser
    attacks: Mapping[str, Attack]
    retained: ConceptImages | None = None
    budget: int = 200
    seeds: tuple[int, ...] = (0,)
    drawing: Drawing = dataclasses.field(default_factory=lambda: Drawing(tuple(range(40))))
    batch: int = 8
    accumulation: int = 1
    recogniser_name: str = ""

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise ValueError(f"budget {self.budget}, expected at least 1")
        for name, values in (
            ("attacks", self.attacks),
            ("seeds", self.seeds),
            ("fresh images", self.drawing.seeds),
        ):
            if not values:
                raise ValueError(f"no {name}, expected at least one")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds {self.seeds}, expected different ones")
        for seed in (*self.seeds, *self.drawing.seeds):
            if not 0 <= seed < FIRST_SEARCH_SEED:
                raise ValueError(f"seed {seed}, expected 0 to {FIRST_SEARCH_SEED - 1}")

    def case(self, pipe: TextToImagePipeline, seed: int) -> Case:
        """The attacker's view of a model."""
        return Case(
            pipe,
            self.word,
            self.prompts,
            self.images,
            self.recognise,
            self.retained,
            seed,
            self.batch,
            self.accumulation,
        )

    def upside_down(self) -> Campaign:
        """The same for a concept that no model knows: the images turned over, recognised when turned back."""

        def recognise(images: StoredImages) -> np.ndarray:
            return self.recognise(images[:, ::-1])

        return dataclasses.replace(self, images=self.images.upside_down(), recognise=recognise)

    def settings(self, attack: str) -> JsonObject:
        """All that a curve of this attack depends on beside model and seed."""
        return {
            "attack": {"name": attack, **settings_of(self.attacks[attack])},
            "budget": self.budget if self.attacks[attack].searches else None,
            "target": self.target,
            "word": self.word,
            "prompts": list(self.prompts),
            "images": _digest(self.images),
            "retained": None if self.retained is None else _digest(self.retained),
            "recogniser": self.recogniser_name,
            "drawing": dataclasses.asdict(self.drawing),
            "batch": self.batch,
        }


@dataclass(frozen=True)
class Report:
    """Every curve, and what they amount to."""

    curves: tuple[Curve, ...]
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, eq=False)
class _Subject:
    """A model to attack, the campaign against it, and what it draws before, where that is drawn already."""

    name: str
    pipe: TextToImagePipeline
    campaign: Campaign
    drawn: StoredImages | None = None


def attack_models(
    base: TextToImagePipeline,
    models: Mapping[str, TextToImagePipeline],
    campaign: Campaign,
    output: Path | None = None,
    *,
    floor: TextToImagePipeline | None = None,
    upside_down: bool = True,
    ceiling: bool = True,
    resume: bool = False,
    display: Display | None = None,
    picture: Picture | None = None,
) -> Report:
    """Attack models, and the frozen one and the floor beside them.

    Args:
        base: the frozen model.
        models: the unlearned ones, by name.
        campaign: what is tried.
        output: a directory, new or empty: cells/ATTACK/MODEL-SEED.json and .png for each search, written as
            soon as it has ended, and result.json; None: nothing is written.
        floor: a model that never knew the concept.
        upside_down: where there is no such model, the floor is the same attack on the frozen model with the
            images turned over, which no model knows; but where what the base draws is recognised when it is
            turned over, there is no floor, and a note says so.
        ceiling: attack the frozen model too.
        resume: go on with a directory that is there: searches that have ended are not made again.
        display: told what goes on.
        picture: writes the pictures.

    Raises:
        ValueError: the frozen model does not draw the concept, so there is nothing to bring back; a name of
            a model that is taken; a finished search with other settings.
        FileExistsError: the output is in use, and not to be resumed.
    """
    for name in models:
        if name in (FROZEN, FLOOR_NAME):
            raise ValueError(
                f"a model named {name!r}, which is the name of another; expected a different one"
            )
    if not models:
        raise ValueError("no model to attack, expected at least one")
    if output is not None:
        check_output(output, resume=resume)
        check_no_links(output)
        clean_leftovers(output)
    tell = display or (lambda text, done, total: None)
    tell("drawing the concept with the frozen model", 0, 1)
    drawn = campaign.drawing.draw(base, campaign.prompts)
    _check_drawn(drawn, campaign)
    remark = ""
    subjects = [_Subject(name, pipe, campaign) for name, pipe in models.items()]
    if ceiling:
        subjects.append(_Subject(FROZEN, base, campaign, drawn))
    if floor is not None:
        subjects.append(_Subject(FLOOR_NAME, floor, campaign))
    elif upside_down:
        unknown = campaign.upside_down()
        turned = np.mean(unknown.recognise(drawn))
        if turned > FLOOR:
            remark = (
                f"no floor: turned over, {turned:.2f} of the base's own images show it, so that it is no "
                "unknown concept; a model that never knew it would be one"
            )
        else:
            subjects.append(_Subject(FLOOR_NAME, base, unknown, drawn))
    curves = list(_curves(subjects, campaign, output, tell, picture))
    found: list[Outcome] = []
    for attack in campaign.attacks:
        mine = [curve for curve in curves if curve.attack == attack]
        beside = [[c for c in mine if c.model == name] for name in (FROZEN, FLOOR_NAME)]
        for name in models:
            each = outcome([c for c in mine if c.model == name], *beside)
            notes = "; ".join(note for note in (each.note, remark) if note)
            found.append(dataclasses.replace(each, note=notes))
    report = Report(tuple(curves), tuple(found))
    if output is not None:
        _write(output / "result.json", _result(report, campaign))
    return report


def _curves(
    subjects: Sequence[_Subject],
    campaign: Campaign,
    output: Path | None,
    tell: Display,
    picture: Picture | None,
) -> Iterator[Curve]:
    befores: dict[str, tuple[Point, StoredImages]] = {}
    digests = {subject.name: pipeline_digest(subject.pipe) for subject in subjects}
    # An attack that does not search is the same for every seed.
    seeds = {
        a: campaign.seeds if made.searches else campaign.seeds[:1] for a, made in campaign.attacks.items()
    }
    cells = [(a, s, seed) for a in campaign.attacks for seed in seeds[a] for s in subjects]
    for number, (attack, subject, seed) in enumerate(cells, 1):
        where = f"{attack} on {subject.name}, seed {seed} ({number} of {len(cells)})"
        settings = {"model": digests[subject.name], "seed": seed, **subject.campaign.settings(attack)}
        place = None
        if output is not None:
            place = output / "cells" / attack / f"{_file_name(subject.name)}-{seed}.json"
            if place.exists():
                yield _kept(place, settings)
                continue
        if subject.name not in befores:
            tell(f"{where}: before", 0, campaign.budget)
            drawn = subject.drawn
            if drawn is None:
                drawn = campaign.drawing.draw(subject.pipe, campaign.prompts)
            befores[subject.name] = Point(0, _recognised(drawn, subject.campaign)), drawn
        before, images = befores[subject.name]
        curve, after = _search(subject, attack, seed, before, where, tell)
        if place is not None:
            _write(place, {"settings": settings, "curve": curve.to_dict()})
            if picture is not None:
                count = min(len(after), SHOWN)
                picture(place.with_suffix(".png"), images[:count], after[:count])
        yield curve


def _search(
    subject: _Subject, attack: str, seed: int, before: Point, where: str, tell: Display
) -> tuple[Curve, StoredImages]:
    campaign, method = subject.campaign, subject.campaign.attacks[attack]
    points: list[Point] = []
    images = np.zeros((0, 1, 1, 3), np.uint8)
    total = campaign.budget if method.searches else 100

    def show(done: int, text: str) -> None:
        reached = f", {points[-1].rate.value:.2f} recognised" if points else ""
        tell(f"{where}: {text}{reached}", done, total)

    for probe in method.probes(campaign.case(subject.pipe, seed), campaign.budget, show):
        images = probe.draw(campaign.drawing)
        points.append(Point(probe.at, _recognised(images, campaign), probe.label, probe.detail))
    return Curve(attack, subject.name, seed, method.axis, before, tuple(points)), images


def _recognised(images: StoredImages, campaign: Campaign) -> tuple[bool, ...]:
    return tuple(bool(one) for one in campaign.recognise(images))


def _check_drawn(images: StoredImages, campaign: Campaign) -> None:
    """Refuse a concept that the base's images at its prompts do not show."""
    seen, count = sum(_recognised(images, campaign)), len(images)
    if seen < DRAWN_BY_THE_BASE * count:
        raise ValueError(
            f"the base shows {campaign.target!r} in {seen} of {count} images at its prompts; no "
            f"attack can bring it back; expected at least {DRAWN_BY_THE_BASE:.0%}"
        )


def _kept(place: Path, settings: JsonObject) -> Curve:
    entry = read_json(place)
    try:
        was, curve = entry["settings"], Curve.from_dict(entry["curve"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{place}: not a search of this version ({error}); remove it") from error
    now = parse_json(json.dumps(settings), "the settings")
    for name, value in now.items():
        if was.get(name) != value:
            raise ValueError(
                f"{place}: made with another {name}; expected the same settings, or another output directory"
            )
    return curve


def _result(report: Report, campaign: Campaign) -> JsonObject:
    return {
        "target": campaign.target,
        "recogniser": campaign.recogniser_name,
        "fresh_images": len(campaign.drawing.seeds),
        "assumes": {name: attack.assumes for name, attack in campaign.attacks.items()},
        "outcomes": [each.to_dict() for each in report.outcomes],
        "curves": [curve.to_dict() for curve in report.curves],
    }


def _write(place: Path, entry: JsonObject) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(place, overwrite=True) as temporary:
        temporary.write_text(json.dumps(entry, indent=2, allow_nan=False) + "\n")


def _file_name(name: str) -> str:
    """A name of a file for any name of a model; those that had to be changed carry a hash."""
    plain = re.sub(r"[^\w.+-]+", "_", name)[-60:].lstrip(".-") or "_"
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _digest(images: ConceptImages) -> str:
    told = json.dumps([images.pixels.shape, images.captions]).encode()
    return hashlib.sha256(told + np.ascontiguousarray(images.pixels).tobytes()).hexdigest()
