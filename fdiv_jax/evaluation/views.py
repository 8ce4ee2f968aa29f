"""What the backbones see in a model's images: looked at once, a batch at a time, and kept as small arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fdiv_jax.arrays import StoredImages
from fdiv_jax.evaluation.accuracy import Classifier, classify
from fdiv_jax.evaluation.change import pixel_change
from fdiv_jax.evaluation.clip_score import ClipScorer, concept_text
from fdiv_jax.evaluation.features import Features
from fdiv_jax.evaluation.images import ImageStore
from fdiv_jax.evaluation.protocol import PromptSet, Protocol

__all__ = ["Backbones", "ClipClassifier", "SetView", "look"]

Progress = Callable[[int, int], None]

_PIXELS = 1 << 22
"""Pixels of the images that are looked at together, at most."""


@dataclass(frozen=True)
class Backbones:
    """The networks that look at images; those that a protocol does not need may be absent.

    Attributes:
        classifier: names what images show.
        features: for KID, FID and the change of features.
        clip: for CLIP scores and CMMD.
        weights: SHA-256 of the weights' files by backbone, where they are known; they go into the result, and
            results with other weights are not compared.
    """

    classifier: Classifier | None = None
    features: Features | None = None
    clip: ClipScorer | None = None
    weights: Mapping[str, str] = field(default_factory=dict)

    def names(self, protocol: Protocol) -> dict[str, str]:
        """What looks at the images of a protocol, by the kind of backbone, with the digest of its weights.

        Raises:
            ValueError: the protocol needs one that is not there.
        """
        found = {}
        for kind in protocol.needs:
            network = getattr(self, kind)
            if network is None:
                wanting = [m for m in protocol.metrics if kind in protocol.backbones_of(m)]
                rest = [m for m in protocol.metrics if m not in wanting]
                left = f"; what works without it: {', '.join(rest)}" if rest else ""
                raise ValueError(
                    f"protocol {protocol.name!r} needs the {kind} {getattr(protocol, kind)!r} for "
                    f"{', '.join(wanting)}, and there is none{left}"
                )
            _check_name(protocol, kind, network)
            digest = self.weights.get(kind, "")
            found[kind] = f"{network.name}{f' (sha256 {digest[:16]})' if digest else ''}"
        return found

    def for_protocol(self, protocol: Protocol) -> Backbones:
        """These, with CLIP in the classifier's place where the protocol says so."""
        if protocol.classifier != "clip" or self.clip is None:
            return self
        return Backbones(ClipClassifier(self.clip, protocol), self.features, self.clip, self.weights)


_WIDTHS = {
    "clip-vit-base-patch32": 512,
    "clip-vit-base-patch16": 512,
    "clip-vit-large-patch14": 768,
    "clip-vit-large-patch14-336": 768,
}
"""Widths of the embeddings of published CLIP models."""


def _check_name(protocol: Protocol, kind: str, network: Classifier | Features | ClipScorer) -> None:
    """Refuse a backbone other than the one that the protocol names."""
    asked = getattr(protocol, kind)
    if isinstance(network, ClipScorer):
        width, expected = network.embed_texts(["a"]).shape[1], _WIDTHS.get(asked.rpartition("/")[2])
        if expected is not None and width != expected:
            raise ValueError(
                f"protocol {protocol.name!r} is of the CLIP {asked}, whose embeddings have {expected} "
                f"numbers; {network.name!r} makes {width}"
            )
    elif asked not in ("judge", "clip", network.name):
        raise ValueError(f"protocol {protocol.name!r} is of the {kind} {asked!r}, got {network.name!r}")


class ClipClassifier:
    """Names the concept of each kind whose caption is nearest to the image: CLIP, zero-shot.

    Source: Radford et al., Learning transferable visual models from natural language supervision, 2021.
    """

    def __init__(self, clip: ClipScorer, protocol: Protocol):
        """Of the concepts that the protocol's prompts show."""
        self.name = f"{clip.name}, zero-shot"
        kinds: dict[str, dict[str, None]] = {}
        for labels in (labels for each in protocol.sets for labels in each.shows):
            for kind, concept in labels:
                kinds.setdefault(kind, {})[concept] = None
        self.kinds: Mapping[str, Sequence[str]] = {kind: tuple(each) for kind, each in kinds.items()}
        self._clip = clip
        self._texts = {
            kind: clip.embed_texts([concept_text(each, style=kind == "style") for each in concepts])
            for kind, concepts in self.kinds.items()
        }

    def __call__(self, images: StoredImages) -> dict[str, np.ndarray]:
        """For each kind n names."""
        seen = self._clip.embed_images(images)
        return {
            kind: np.asarray(self.kinds[kind])[(seen @ texts.T).argmax(-1)]
            for kind, texts in self._texts.items()
        }


@dataclass(frozen=True)
class SetView:
    """What was seen in the images of one set of prompts, one row per prompt and one column per seed.

    Attributes:
        of: the set.
        seeds: of the columns.
        right: by kind of concept whether the classifier names what the prompt names (1.0 or 0.0, nan where
            the prompt names nothing).
        features: prompts seeds d.
        clip: prompts seeds d, unit vectors.
        change: of the pixels from the base's image, see `pixel_change`.
    """

    of: PromptSet
    seeds: tuple[int, ...] = ()
    right: Mapping[str, np.ndarray] = field(default_factory=dict)
    features: np.ndarray | None = None
    clip: np.ndarray | None = None
    change: np.ndarray | None = None


def look(
    store: ImageStore,
    folder: str,
    base: str,
    protocol: Protocol,
    backbones: Backbones,
    progress: Progress | None = None,
) -> tuple[SetView, ...]:
    """Look at all images of a model.

    Args:
        store: holds the images.
        folder: of the model's images.
        base: folder of the base's.
        protocol: whose images.
        backbones: see `Backbones.for_protocol`.
        progress: called with (images seen, images in all).

    Raises:
        FileNotFoundError: an image is not in the store.
        ValueError: images of another size than the base's, or a classifier that knows other concepts.
    """
    total = sum(len(each.prompts) * len(protocol.seeds(each.role)) for each in protocol.sets)
    views, done = [], 0
    for each in protocol.sets:
        seeds, parts = protocol.seeds(each.role), []
        first = 0
        while first < len(each.prompts):
            images = store.read(folder, each.prompts[first], seeds)
            more = max(1, _PIXELS // images[..., 0].size)
            prompts = each.prompts[first : first + more]
            rest = [store.read(folder, prompt, seeds) for prompt in prompts[1:]]
            pictures = np.concatenate([images, *rest])
            same = folder == base
            others = pictures if same else np.concatenate([store.read(base, p, seeds) for p in prompts])
            parts.append(_look(pictures, others, protocol, backbones))
            first, done = first + len(prompts), done + len(pictures)
            if progress is not None:
                progress(done, total)
        views.append(_view(each, seeds, parts))
    return tuple(views)


@dataclass(frozen=True)
class _Seen:
    """Of n images: labels by kind, features and embeddings where wanted, and the change of pixels."""

    labels: Mapping[str, np.ndarray]
    features: np.ndarray | None
    clip: np.ndarray | None
    change: np.ndarray


def _look(images: StoredImages, reference: StoredImages, protocol: Protocol, backbones: Backbones) -> _Seen:
    needs, network = protocol.needs, backbones
    return _Seen(
        classify(network.classifier, images) if "classifier" in needs and network.classifier else {},
        network.features(images) if "features" in needs and network.features else None,
        network.clip.embed_images(images) if "clip" in needs and network.clip else None,
        pixel_change(images, reference),
    )


def _view(of: PromptSet, seeds: tuple[int, ...], parts: list[_Seen]) -> SetView:
    shape = (len(of.prompts), len(seeds))

    def joined(values: list[np.ndarray | None]) -> np.ndarray | None:
        found = [np.asarray(value) for value in values if value is not None]
        return np.concatenate(found).reshape(*shape, *found[0].shape[1:]) if found else None

    right = {}
    for kind in parts[0].labels:
        seen = np.concatenate([part.labels[kind] for part in parts]).reshape(shape)
        names = [dict(labels).get(kind) for labels in of.shows]
        table = (seen == np.asarray(names, object)[:, None]).astype(np.float64)
        table[[name is None for name in names]] = np.nan
        right[kind] = table
    return SetView(
        of,
        seeds,
        right,
        joined([part.features for part in parts]),
        joined([part.clip for part in parts]),
        joined([part.change for part in parts]),
    )
