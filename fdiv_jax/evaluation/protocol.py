"""A protocol: all that an evaluation's figures depend on beside the models, with one hash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fdiv_jax.diffusion import SAMPLERS, NoiseSchedule, sampling_plan
from fdiv_jax.files import JsonMapping, JsonObject, shown
from fdiv_jax.files import checks as check
from fdiv_jax.files.checks import set_field as _set
from fdiv_jax.pipeline.inputs import LARGEST_SEED

__all__ = ["METRICS", "ROLES", "Metric", "PromptSet", "Protocol", "Role", "unlike"]

Role = Literal["target", "anchor", "retained"]
Better = Literal["", "higher", "lower"]
Backbone = Literal["", "classifier", "features", "clip"]
ROLES: tuple[Role, ...] = get_args(Role)

_FORMAT = 1
"""Part of the hash: raised when the same settings come to mean other figures."""
_BACKBONES = ("classifier", "features", "clip")
_DRAWING = ("sampler", "steps", "guidance", "eta", "size")


@dataclass(frozen=True)
class Metric:
    """What a metric is called, and what it needs.

    Attributes:
        title: in words.
        roles: whose images it is of.
        backbone: the network that looks at the images; empty: the pixels alone.
        at_target: whether "higher" or "lower" is better at the target, or of a figure over several roles;
            empty: neither is.
        elsewhere: the same at anchor and retained prompts.
    """

    title: str
    roles: tuple[Role, ...]
    backbone: Backbone
    at_target: Better
    elsewhere: Better


METRICS: Mapping[str, Metric] = {
    "ua": Metric("UA: target not recognised at its prompts", ("target",), "classifier", "higher", ""),
    "ira": Metric("IRA: retained concepts recognised", ("retained",), "classifier", "higher", "higher"),
    "cra": Metric("CRA: other kinds recognised", ("target", "retained"), "classifier", "higher", "higher"),
    "harmonic": Metric(
        "harmonic mean of UA, IRA and CRA", ("target", "retained"), "classifier", "higher", "higher"
    ),
    "clip_score": Metric("CLIP score", ROLES, "clip", "lower", "higher"),
    "clip_accuracy": Metric("CLIP accuracy", ("target", "retained"), "clip", "lower", "higher"),
    "kid": Metric("KID to the base's images", ROLES, "features", "", "lower"),
    "fid": Metric("FID to the base's images", ROLES, "features", "", "lower"),
    "cmmd": Metric("CMMD to the base's images", ROLES, "clip", "", "lower"),
    "pixel_change": Metric("change of pixels", ROLES, "", "", "lower"),
    "feature_change": Metric("change of features", ROLES, "features", "", "lower"),
}
"""The metrics by name; `fdiv_jax.evaluation` computes each from the images alone."""


@dataclass(frozen=True)
class PromptSet:
    """The prompts of one concept, and the part that it plays.

    Raises:
        ValueError: no prompts, a prompt twice, an unknown role, or a caption without the text that it is
            compared with.
        TypeError: a value of the wrong type.
    """

    role: Role
    """target, anchor or retained."""
    concept: str
    """The name of the concept; a classifier's word for it."""
    prompts: tuple[str, ...]
    """Prompts that show it."""
    kind: str = "concept"
    """The kind of concept, for instance item or style."""
    shows: tuple[tuple[tuple[str, str], ...], ...] = ()
    """For each prompt the pairs (kind, concept) that its images should show; by default the set's own."""
    caption: str = ""
    """The text of the CLIP score; by default "A photo depicts CONCEPT"."""
    against: str = ""
    """The text that the caption is compared with for the CLIP accuracy; empty: there is none."""

    def __post_init__(self) -> None:
        check.one_of("role", self.role, ROLES)
        _set(self, "concept", check.text("concept", self.concept))
        _set(self, "kind", check.text("kind", self.kind))
        prompts = check.texts(f"prompts of {self.concept!r}", self.prompts)
        if not prompts:
            raise ValueError(f"{self.role} {self.concept!r} has no prompts; expected at least one")
        twice = [prompt for i, prompt in enumerate(prompts) if prompt in prompts[:i]]
        if twice:
            raise ValueError(f"{self.role} {self.concept!r} has the prompt {twice[0]!r} twice")
        _set(self, "prompts", prompts)
        own = ((self.kind, self.concept),)
        labels = tuple(tuple((str(k), str(c)) for k, c in each) or own for each in self.shows)
        if len(labels) not in (0, len(prompts)):
            raise ValueError(
                f"{self.role} {self.concept!r}: shows has {len(labels)} entries for {len(prompts)} prompts"
            )
        _set(self, "shows", labels or (own,) * len(prompts))
        caption = self.caption or f"A photo depicts {self.concept}"
        _set(self, "caption", check.text("caption", caption))
        if not isinstance(self.against, str):
            raise TypeError(f"against must be a string, got {self.against!r}")
        if self.against == self.caption:
            raise ValueError(f"{self.role} {self.concept!r}: against is the caption {self.caption!r} itself")

    def to_dict(self) -> JsonObject:
        """The set as JSON holds it."""
        return {**dataclasses.asdict(self), "shows": [dict(each) for each in self.shows]} | {
            "prompts": list(self.prompts)
        }


@dataclass(frozen=True)
class Protocol:
    """What is drawn, how, and what is measured.

    Two evaluations are comparable when `sha256` is the same: it covers every field but the name.

    Raises:
        ValueError: a value out of range; a sampler without that eta; no target; a metric without its images
            or without a backbone; a prompt that is both of a target and retained.
        TypeError: a value of the wrong type. Both name the value and what was expected.
    """

    name: str
    """What it is called; not part of the hash."""
    sets: tuple[PromptSet, ...]
    """The prompts of every concept."""
    metrics: tuple[str, ...]
    """What is measured: names of `METRICS`."""
    target_seeds: tuple[int, ...]
    """The seeds of the images at each prompt of a target, one image per seed."""
    anchor_seeds: tuple[int, ...] = ()
    """Those at each prompt of an anchor."""
    retained_seeds: tuple[int, ...] = ()
    """Those at each retained prompt."""
    sampler: str = "ddim"
    """The sampler: ddim, dpm++, dpmsolver++karras, euler, euler_karras, euler_a or lcm."""
    steps: int = 50
    """The number of steps of the sampler."""
    guidance: float = 6.0
    """Classifier-free guidance; 1 is no guidance."""
    eta: float | None = None
    """The share of fresh noise per step, for ddim and euler_a; None: the sampler's own."""
    size: tuple[int, int] | None = None
    """Height and width in pixels; None: the model's own."""
    classifier: str = ""
    """What names the concepts in an image: judge (that of the model's world), clip (the nearest caption,
    zero-shot), or the name of a classifier that is given in Python."""
    features: str = ""
    """What KID, FID and the change of features are measured in: judge, "inception-v3 (clean-fid)" (or with
    another program's resizing), or the name of features that are given in Python."""
    clip: str = ""
    """The CLIP of the scores, such as openai/clip-vit-base-patch32."""

    def __post_init__(self) -> None:
        _set(self, "name", check.text("name", self.name))
        if isinstance(self.sets, (str, Mapping)) or not all(isinstance(s, PromptSet) for s in self.sets):
            raise TypeError(f"sets must be a sequence of PromptSet, got {shown(self.sets)}")
        _set(self, "sets", tuple(self.sets))
        if not self.of("target"):
            raise ValueError(f"protocol {self.name!r} has no target; expected the prompts of one at least")
        for role in ROLES:
            _set(self, f"{role}_seeds", self._checked_seeds(role))
        self._check_drawing()
        self._check_metrics()
        least = 3 if {"kid", "fid", "cmmd"} & set(self.metrics) else 2
        for each in self.sets:
            count = len(each.prompts) * len(self.seeds(each.role))
            if count < least:
                images = "1 image" if count == 1 else f"{count} images"
                raise ValueError(
                    f"{each.role} {each.concept!r} has {images}, too few for an interval; expected "
                    f"{least} at least, by more prompts or more seeds"
                )
        erased = {prompt for each in self.of("target") for prompt in each.prompts}
        for each in self.of("retained"):
            both = [prompt for prompt in each.prompts if prompt in erased]
            if both:
                raise ValueError(f"the prompt {both[0]!r} is of a target, and of retained {each.concept!r}")

    def _checked_seeds(self, role: Role) -> tuple[int, ...]:
        name, values = f"{role}_seeds", getattr(self, f"{role}_seeds")
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise TypeError(f"{name} must be a sequence of integers, got {values!r}")
        seeds = tuple(check.whole(name, value, least=0, below=LARGEST_SEED + 1) for value in values)
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"{name} has a seed twice: {shown(list(seeds))}")
        if not self.of(role):
            return ()
        if not seeds:
            raise ValueError(f"{name} is empty; expected a seed for each image of a prompt")
        return seeds

    def _check_drawing(self) -> None:
        check.one_of("sampler", self.sampler, SAMPLERS)
        _set(self, "steps", check.whole("steps", self.steps, least=1))
        _set(self, "guidance", check.real("guidance", self.guidance, least=0))
        if self.eta is not None:
            _set(self, "eta", check.real("eta", self.eta, least=0))
        if self.size is not None:
            if not isinstance(self.size, (tuple, list)) or len(self.size) != 2:
                raise TypeError(f"size must be (height, width), got {self.size!r}")
            _set(self, "size", tuple(check.whole("size", side, least=1) for side in self.size))
        self.check_sampler(_USUAL)

    def check_sampler(self, schedule: NoiseSchedule) -> None:
        """Check that the sampler takes these steps and this eta on a model's schedule.

        Raises:
            ValueError: it does not; names the sampler.
        """
        try:
            sampling_plan(schedule, self.steps, sampler=self.sampler, eta=self.eta)
        except ValueError as error:
            raise ValueError(f"protocol {self.name!r}, sampler {self.sampler}: {error}") from None

    def _check_metrics(self) -> None:
        names = check.texts("metrics", self.metrics)
        if not names or len(set(names)) < len(names):
            raise ValueError(f"metrics must be one or more different names, got {list(names)}")
        _set(self, "metrics", names)
        for backbone in _BACKBONES:
            value = getattr(self, backbone)
            if not isinstance(value, str):
                raise TypeError(f"{backbone} must be a string, got {value!r}")
        if self.classifier == "clip" and not self.clip:
            raise ValueError("classifier 'clip' without clip; expected the name of a CLIP")
        for name in names:
            metric = METRICS[check.one_of("metrics", name, METRICS)]
            if not any(self.of(role) for role in metric.roles):
                raise ValueError(
                    f"metric {name!r} is of {' and '.join(metric.roles)} prompts; there are none"
                )
            if metric.backbone and not getattr(self, metric.backbone):
                raise ValueError(f"metric {name!r} needs {metric.backbone}, which the protocol does not name")
        kinds = {kind for each in self.sets for labels in each.shows for kind, _ in labels}
        if {"cra", "harmonic"} & set(names) and not kinds - {each.kind for each in self.of("target")}:
            raise ValueError("metrics cra and harmonic need prompts that show another kind than the target's")
        if "clip_accuracy" in names and not any(each.against for each in self.sets):
            raise ValueError("metric 'clip_accuracy' compares captions, and no set says `against` what")

    def of(self, role: Role) -> tuple[PromptSet, ...]:
        """The sets of a role."""
        return tuple(each for each in self.sets if each.role == role)

    def seeds(self, role: Role) -> tuple[int, ...]:
        """The seeds of a role's images."""
        return getattr(self, f"{role}_seeds")

    def images(self) -> Iterator[tuple[str, int]]:
        """(prompt, seed) of every image, each once."""
        every = ((p, s) for each in self.sets for p in each.prompts for s in self.seeds(each.role))
        return iter(dict.fromkeys(every))

    @property
    def drawing(self) -> JsonObject:
        """What the images depend on beside model, prompt and seed, as JSON holds it."""
        return {name: _plain(getattr(self, name)) for name in _DRAWING}

    def backbones_of(self, metric: str) -> tuple[str, ...]:
        """The backbones that a metric looks through."""
        own = METRICS[metric].backbone
        if own == "classifier" and self.classifier == "clip":
            return "classifier", "clip"
        return (own,) if own else ()

    @property
    def needs(self) -> tuple[str, ...]:
        """The backbones that its metrics look through."""
        found = {each for name in self.metrics for each in self.backbones_of(name)}
        return tuple(name for name in _BACKBONES if name in found)

    @property
    def sha256(self) -> str:
        """SHA-256 of everything but the name, as canonical JSON."""
        content = {"format": _FORMAT, **self.to_dict()}
        del content["name"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> JsonObject:
        """The protocol as JSON holds it; `from_dict` gives an equal one back."""
        content = {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return content | {"sets": [each.to_dict() for each in self.sets]}

    @classmethod
    def from_dict(cls, mapping: JsonMapping) -> Protocol:
        """Read what `to_dict` gave.

        Raises:
            ValueError: an unknown key (names the nearest known one), or a value out of range.
            TypeError: a value of the wrong type.
        """
        values = check.known_keys("protocol", mapping, (field.name for field in dataclasses.fields(cls)))
        entries = values.get("sets", ())
        if isinstance(entries, (str, Mapping)) or not isinstance(entries, Sequence):
            raise TypeError(f"sets must be a list, got {shown(entries)}")
        fields = tuple(field.name for field in dataclasses.fields(PromptSet))
        sets = []
        for entry in entries:
            one = check.known_keys("a set of prompts", entry, fields)
            shows = tuple(tuple(each.items()) for each in one.get("shows", ()))
            sets.append(PromptSet(**{**one, "shows": shows}))
        return cls(**{**values, "sets": tuple(sets)})


def unlike(one: JsonMapping, other: JsonMapping, prefix: str = "") -> list[str]:
    """What differs between two descriptions, as "steps: 50 and 30"; the name does not count."""
    found: list[str] = []
    for key in dict.fromkeys([*one, *other]):
        a, b, where = one.get(key), other.get(key), f"{prefix}{key}"
        if a == b or where == "name":
            continue
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += unlike(a, b, f"{where}.")
        elif key == "sets":
            found += _unlike_sets(a or (), b or ())
        else:
            found.append(f"{where}: {shown(a, 60)} and {shown(b, 60)}")
    return found


def _unlike_sets(one: Any, other: Any) -> list[str]:
    by_name = [{f"{each['role']} {each['concept']}": each for each in sets} for sets in (one, other)]
    found = []
    for name in dict.fromkeys([*by_name[0], *by_name[1]]):
        a, b = (each.get(name) for each in by_name)
        if a is None or b is None:
            found.append(
                f"{name}: {'absent' if a is None else 'there'} and {'absent' if b is None else 'there'}"
            )
        elif a != b:
            found += unlike(a, b, f"{name}: ")
    return found


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


_USUAL = NoiseSchedule.from_config({"_class_name": "DDIMScheduler"})
"""A schedule of the usual 1000 steps, which a protocol is checked against before there is a model."""
