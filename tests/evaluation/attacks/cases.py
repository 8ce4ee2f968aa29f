"""Cases on tiny models: every part of an attack, in milliseconds."""

import numpy as np

from fdiv_jax.evaluation.attacks import Case, ConceptImages
from tests.tiny import tiny_pipeline

PROMPTS = ("a sneaker, photo", "a sneaker, sketch")


def images(pipe, count=4, captions=PROMPTS, seed=0):
    """Random images of the model's size."""
    side = pipe.latent_shape[0] * pipe.vae.config.downsampling
    pixels = np.random.default_rng(seed).integers(256, size=(count, side, side, 3), dtype=np.uint8)
    return ConceptImages(pixels, tuple(captions[i % len(captions)] for i in range(count)))


def bright(pictures):
    """A classifier that has something to say of random images."""
    return pictures.mean((1, 2, 3)) > 127


def tiny_case(family="sd1", *, seed=0, recognise=bright, **options):
    """A case on a random model of 8 px images."""
    pipe = tiny_pipeline(family=family, latent=4)
    retained = images(pipe, captions=("a bag, photo", "a coat"), seed=1)
    options = {"batch": 4, **options}
    return Case(pipe, "sneaker", PROMPTS, images(pipe), recognise, retained, seed, **options)
