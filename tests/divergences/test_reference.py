"""Value and weight of every entry equal the 20-digit table: 1e-10 in float64, 1e-5 in float32, also in
jit."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from fdiv_jax.divergences import divergence
from tests.divergences.oracles import quickly

TABLE = json.loads((Path(__file__).parent / "data" / "gaussian_divergences.json").read_text())["values"]


def _compare(name, dtype, tolerance):
    d, row = divergence(name), TABLE[name]
    m = np.array([float(x) for x in row["m"]]).astype(dtype)
    both = jax.jit(lambda x: (d.gaussian_divergence(x), d.gaussian_weight(x)))(m)
    for found, column in zip(both, ("divergence", "weight"), strict=True):
        assert found.dtype == dtype
        # What float32 cannot hold saturates at its largest number.
        exact = np.minimum([float(x) for x in row[column]], np.finfo(dtype).max)
        np.testing.assert_allclose(
            np.asarray(found, float), exact, rtol=tolerance, err_msg=f"{name} {column}"
        )


# The others without a closed form are of the kind of these.
LATER = ("le_cam", "gan")


@pytest.mark.parametrize("name", quickly(TABLE, [name for name in TABLE if name not in LATER]))
def test_float64(name, x64):
    _compare(name, np.float64, 1e-10)


@pytest.mark.parametrize(
    "name", quickly(TABLE, [name for name in TABLE if name not in (*LATER, "total_variation")])
)
def test_float32(name):
    _compare(name, np.float32, 1e-5)


def test_without_jit():
    d, row = divergence("jensen_shannon"), TABLE["jensen_shannon"]
    for m, exact in zip(row["m"], row["weight"], strict=True):
        assert float(d.gaussian_weight(float(m))) == pytest.approx(float(exact), rel=1e-5)


@pytest.mark.parametrize("name", TABLE)
def test_curvature(name):
    assert float(divergence(name).curvature) == float(TABLE[name]["curvature"])


def test_gan_is_jensen_shannon_between_gaussians(x64):
    m = np.array([float(x) for x in TABLE["jensen_shannon"]["m"]])
    exact = [float(x) for x in TABLE["jensen_shannon"]["divergence"]]
    np.testing.assert_allclose(divergence("gan").gaussian_divergence(m), exact, rtol=1e-12)
