"""A model of the world `fashion` that never saw some of its items: what an attack must not find them in."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from fdiv_jax.assets import asset_directory
from fdiv_jax.checkpoints import check_place, load_component
from fdiv_jax.nn import AutoencoderKL
from fdiv_jax.worlds.build_fashion import BuildConfig, encode_training_images, train_pipeline
from fdiv_jax.worlds.captions import ITEM_NAMES
from fdiv_jax.worlds.data import load_split

__all__ = ["build_without", "without_items"]


def build_without(config: BuildConfig) -> None:
    """Train the UNet and the text encoder anew on the photographs of the other items, and save the pipeline.

    The prompts are those of the world, and what an item that is left out is called is never seen in training.
    The autoencoder is the package's. The checkpoints are in a part of the work directory of their own, so a
    build that was stopped goes on.

    Raises:
        ValueError: no output.
        FileExistsError: the output is in use.
        FileNotFoundError: the data set is not there.
    """
    if config.output is None:
        raise ValueError("no output for a model without some items, expected a directory")
    if config.output.exists() and any(config.output.iterdir()):
        raise FileExistsError(f"output {config.output} exists and is not empty; expected a new directory")
    check_place(config.output)
    own = config.work / "-".join(
        ["without", *(name.replace(" ", "_") for name in sorted(set(config.without)))]
    )
    output, config = config.output, dataclasses.replace(config, work=own)
    own.mkdir(parents=True, exist_ok=True)
    images, labels = without_items(*load_split("train", config.data), config.without)
    vae = load_component(asset_directory("fashion") / "vae", AutoencoderKL).model
    data = encode_training_images(config, images, vae)
    train_pipeline(config, vae, data, images, labels).save(output)


def without_items(
    images: np.ndarray, labels: np.ndarray, names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The photographs and labels of the other items."""
    kept = ~np.isin(labels, [ITEM_NAMES.index(name) for name in names])
    return images[kept], labels[kept]
