"""What the world `fashion` can be asked for: its items, styles, super-classes, neighbours and captions."""

from __future__ import annotations

import dataclasses

import numpy as np

from fdiv_jax.files import JsonObject
from fdiv_jax.worlds.styles import STYLES


@dataclasses.dataclass(frozen=True)
class Item:
    """One kind of clothing.

    Attributes:
        name: as in prompts.
        superclass: the word that covers it and its relatives.
        near: the item that looks most like it.
    """

    name: str
    superclass: str
    near: str


ITEMS: tuple[Item, ...] = (  # in the order of Fashion-MNIST's labels
    Item("t-shirt", "top", "shirt"),
    Item("trouser", "garment", "dress"),
    Item("pullover", "top", "coat"),
    Item("dress", "top", "coat"),
    Item("coat", "top", "pullover"),
    Item("sandal", "shoe", "sneaker"),
    Item("shirt", "top", "t-shirt"),
    Item("sneaker", "shoe", "sandal"),
    Item("bag", "accessory", "ankle boot"),
    Item("ankle boot", "shoe", "sneaker"),
)

SUPERCLASSES: dict[str, tuple[str, ...]] = {
    "shoe": ("sandal", "sneaker", "ankle boot"),
    "top": ("t-shirt", "pullover", "dress", "coat", "shirt"),
    "garment": ("t-shirt", "trouser", "pullover", "dress", "coat", "shirt"),
    "accessory": ("bag", "sandal", "sneaker", "ankle boot"),
}

ITEM_NAMES = tuple(item.name for item in ITEMS)
STYLE_NAMES = tuple(STYLES)


def phrase(noun: str) -> str:
    """The noun with its article: "a sneaker", "an ankle boot"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def caption(noun: str, style: str | None = None) -> str:
    """ "a sneaker, sketch style", or "a sneaker" without a style."""
    return phrase(noun) if style is None else f"{phrase(noun)}, {style} style"


def _vocabulary() -> tuple[str, ...]:
    nouns = (*ITEM_NAMES, *SUPERCLASSES)
    return ("", *(caption(noun, style) for noun in nouns for style in (None, *STYLE_NAMES)))


CAPTIONS: tuple[str, ...] = _vocabulary()
"""Every caption that the world is trained on; the empty one first."""

_INDEX = {text: i for i, text in enumerate(CAPTIONS)}


def draw_captions(rng: np.random.Generator, items: np.ndarray, styles: np.ndarray) -> np.ndarray:
    """A caption for every image: by item and style mostly, else by superclass, without style, or empty.

    Args:
        rng: source of the choice.
        items: (n,), indices into `ITEMS`.
        styles: (n,), indices into `STYLES`.

    Returns:
        (n,), indices into `CAPTIONS`: item and style 0.68, superclass and style 0.12, item alone 0.06,
        superclass alone 0.02, empty 0.12.
    """
    choice = rng.random(len(items))
    member = [[noun for noun, names in SUPERCLASSES.items() if name in names] for name in ITEM_NAMES]
    result = np.zeros(len(items), np.int32)
    for i, (item, style, u) in enumerate(zip(items, styles, choice, strict=True)):
        if u < 0.12:
            continue
        if u < 0.26:
            noun = member[item][int(rng.integers(len(member[item])))]
            named = u < 0.24
        else:
            noun = ITEM_NAMES[item]
            named = u >= 0.32
        result[i] = _INDEX[caption(noun, STYLE_NAMES[style] if named else None)]
    return result


def concepts() -> JsonObject:
    """The world's `concepts.json`: what can be unlearned, and what stands for its anchors.

    A concept's `phrase` is the part of a prompt that names it; `superclass` and `near` are what takes its
    place in the anchor prompt; `prompts` are the prompts that show it.
    """
    result: JsonObject = {}
    for item in ITEMS:
        result[item.name] = {
            "kind": "item",
            "phrase": phrase(item.name),
            "superclass": phrase(item.superclass),
            "near": phrase(item.near),
            "prompts": [caption(item.name, style) for style in STYLE_NAMES],
        }
    for i, style in enumerate(STYLE_NAMES):
        result[style] = {
            "kind": "style",
            "phrase": f", {style} style",
            "superclass": "",
            "near": f", {STYLE_NAMES[(i + 1) % len(STYLE_NAMES)]} style",
            "prompts": [caption(name, style) for name in ITEM_NAMES],
        }
    return result
