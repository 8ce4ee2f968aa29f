"""Named features, distances by name, and the change of retained images."""

import numpy as np
import pytest

from fdiv_jax.evaluation import Features, feature_change, feature_distances, fid, kid, pixel_change


def images(n=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 4, 5, 3)).astype(np.uint8)


def colours(batch):
    return batch.reshape(len(batch), -1, 3).mean(1)


def test_features_come_in_batches_and_in_order():
    sizes = []

    def function(batch):
        sizes.append(len(batch))
        return colours(batch)

    found = Features("mean colour", function, batch=4)(images())
    np.testing.assert_array_equal(found, colours(images()))
    assert sizes == [4, 2]


def test_distances_are_named_by_their_features():
    features = Features("mean colour", colours)
    found = feature_distances(features, images(), images(8, 1))
    assert found == {
        "kid, mean colour": kid(colours(images()), colours(images(8, 1))),
        "fid, mean colour": fid(colours(images()), colours(images(8, 1))),
    }
    paired = feature_distances(features, images(), images(6, 1), distances=["kid"], paired=True)
    assert list(paired.values()) == [kid(colours(images()), colours(images(6, 1)), paired=True)]
    with pytest.raises(ValueError, match="'lpips', expected one of kid, fid, cmmd"):
        feature_distances(features, images(), images(), distances=["lpips"])


def test_changes_of_pairs():
    black, white = np.zeros((1, 2, 2, 3), np.uint8), np.full((1, 2, 2, 3), 255, np.uint8)
    half = black.copy()
    half[0, 0] = 255
    assert pixel_change(black, white) == 1
    assert pixel_change(black, half) == pytest.approx(0.5**0.5)
    assert pixel_change(images(), images()).tolist() == [0] * 6
    features = Features(
        "first and second moment", lambda x: np.stack([colours(x)[:, 0], colours(x)[:, 1]], 1)
    )
    x, y = features(images()), features(images(6, 1))
    cosines = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    np.testing.assert_allclose(
        feature_change(features, images(), images(6, 1)), 1 - cosines, rtol=1e-9, atol=1e-15
    )
    with pytest.raises(ValueError, match="length 0"):
        feature_change(features, black, white)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Features("f", colours)(images()[0]), ValueError, r"\(4, 5, 3\)"),
        (lambda: Features("f", colours)(images() / 255), TypeError, "uint8"),
        (lambda: Features("f", lambda x: x.mean())(images()), ValueError, "for 6 images"),
        (lambda: Features("f", colours)(images()[:0]), ValueError, "n of 1 or more"),
        (lambda: pixel_change(images(), images(5)), ValueError, "paired"),
    ],
)
def test_bad_images(call, error, message):
    with pytest.raises(error, match=message):
        call()
