"""Tiny models, a classifier and features that need no weights, and a protocol for them."""

import numpy as np

from fdiv_jax.evaluation import Features, PromptSet, Protocol

CLASSES = {"item": ("sneaker", "sandal", "shirt"), "style": ("photo", "sketch")}


class BySum:
    """Names an image by the sum of its pixels: different images, different names."""

    name = "by sum"
    kinds = CLASSES

    def __call__(self, images):
        total = images.reshape(len(images), -1).sum(-1, dtype=np.int64)
        return {kind: np.asarray(names)[total % len(names)] for kind, names in CLASSES.items()}


def shrunk_pixels():
    """Pooled pixels as features, one constant beside them so that none is 0."""

    def function(images):
        pooled = images.reshape(len(images), 4, -1, 4, images.shape[2] // 4, 3).mean((2, 4)) / 255.0
        return np.concatenate([pooled.reshape(len(images), -1), np.ones((len(images), 1))], axis=1)

    return Features("pixels", function)


def protocol(**changes):
    """Two steps at a handful of prompts, with every metric that needs no CLIP."""
    sets = (
        PromptSet(
            "target",
            "sneaker",
            ("a sneaker, photo style", "a sneaker, sketch style"),
            "item",
            ((("item", "sneaker"), ("style", "photo")), (("item", "sneaker"), ("style", "sketch"))),
        ),
        PromptSet("anchor", "sandal", ("a sandal, photo style",), "item"),
        PromptSet(
            "retained",
            "shirt",
            ("a shirt, photo style", "a shirt, sketch style"),
            "item",
            ((("item", "shirt"), ("style", "photo")), (("item", "shirt"), ("style", "sketch"))),
        ),
    )
    values = {
        "name": "tiny",
        "sets": sets,
        "metrics": ("ua", "ira", "cra", "harmonic", "kid", "fid", "pixel_change", "feature_change"),
        "target_seeds": (0, 1, 2),
        "anchor_seeds": (0, 1, 2),
        "retained_seeds": (1, 2),
        "steps": 2,
        "guidance": 2.0,
        "classifier": "by sum",
        "features": "pixels",
    }
    return Protocol(**{**values, **changes})
