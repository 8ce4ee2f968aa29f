"""The part on the step's spectrum, on a game that is linear but for a cubic term and has known matrices."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from analysis.blocks import Blocks
from analysis.parts import real_spectrum
from analysis.runner import Context
from analysis.spectrum import Ritz
from analysis.style import panels
from fdiv_jax.theory import game_jacobian, update_matrix

SIZE = 18


class LinearGame:
    """What the part asks of a `StepGame`; a point is its own blocks."""

    factor = 1.0
    """By which the spectrum differs from the theory."""

    def __init__(self, members):
        self.members = members

    @classmethod
    def of(cls, pipe, group, divergences, **options):
        return cls(divergences), None

    def point(self, frozen, batch, key, window, critic_key):
        rng = np.random.default_rng((batch, *window))
        seen = rng.standard_normal((SIZE, 4))
        k = 0.2 * rng.standard_normal((SIZE, SIZE))
        return SimpleNamespace(gram=seen @ seen.T / 4, k=k, trained=jnp.zeros(SIZE))

    def blocks(self, point):
        return Blocks(point.gram, point.k @ point.k.T)

    def speeds(self, d, activation, model_step, critic_step):
        return d, activation, model_step, critic_step

    def jacobian(self, point, speeds):
        d, activation, a, b = speeds
        jacobian = game_jacobian(d, point.gram, point.k, a, b, activation)
        scale = np.sqrt(np.repeat([a, b], SIZE))
        step = update_matrix(jacobian, 1.0, "alternating", model_size=SIZE) - np.eye(2 * SIZE)
        return self.factor * step * scale / scale[:, None]

    def eigenvalues(self, point, speeds, *, size, key):
        values, vectors = np.linalg.eig(self.jacobian(point, speeds))
        order = np.argsort(-np.abs(values))
        return Ritz(values[order], np.zeros(2 * SIZE), np.eye(2 * SIZE), vectors[:, order])

    def orbit(self, point, speeds, plane, push, *, steps):
        matrix, z, path = self.jacobian(point, speeds), push * plane[:, 0], []
        for _ in range(steps + 1):
            path.append(np.linalg.lstsq(plane, z, rcond=None)[0])
            z = z + matrix @ z - 0.01 * z**3
        return np.array(path)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the part in full, on this game; gives its entries and the context."""
    laboratory = SimpleNamespace(
        frozen=None, data=lambda trial: SimpleNamespace(batch=lambda seed, step, size: step)
    )
    monkeypatch.setattr(real_spectrum.Laboratory, "open", lambda context: laboratory)
    monkeypatch.setattr(real_spectrum, "StepGame", LinearGame)

    def go():
        context = Context("real_spectrum", False, tmp_path / "out", tmp_path / "work" / "full" / "p" / "key")
        return real_spectrum.run(context), context

    return go


@pytest.mark.slow
def test_the_part_on_a_game_that_obeys_the_theory(run):
    entries, context = run()
    assert entries["real_spectrum_max_relative_error"] < 1e-9
    assert entries["real_spectrum_within_bar"]
    assert entries["real_orbit_rate_max_relative_error"] < 0.01
    assert (entries["real_spectrum_gram_rank"], entries["real_spectrum_coupling_rank"]) == (4, SIZE)
    assert len(entries["real_spectrum_error_by_case"]) == 6
    # A model that is slow beside its critic is over-damped: rates go with f''(1), under Adam too.
    slow = entries["real_spectrum_rate_by_curvature"]["model at a / 100"]
    for method, factor in (("plain", 1), ("three critic steps", 1), ("heavy ball 0.5", 2), ("Adam", 1)):
        expected = factor * slow["plain"][0] * np.array(real_spectrum.CURVATURES) / 0.5
        np.testing.assert_allclose(slow[method], expected, rtol=0.05)
    assert entries["real_spectrum_order_of_plain_steps_kept"]["plain"] == 1.0
    (figure,) = context.figures
    assert {name.rsplit(".", 1)[1] for name in figure["files"]} == {"png", "pdf", "csv", "json"}
    assert context.faults == []


def test_a_spectrum_that_differs_is_told(run, monkeypatch):
    monkeypatch.setattr(LinearGame, "factor", 1.001)
    monkeypatch.setattr(real_spectrum, "_draw", lambda *_: panels(1, 1)[0])
    entries, _ = run()
    assert entries["real_spectrum_max_relative_error"] == pytest.approx(1e-3, rel=0.05)
    assert not entries["real_spectrum_within_bar"]


def test_directions_that_a_batch_damps():
    rng = np.random.default_rng(0)
    seen, k = rng.standard_normal((6, 2)), rng.standard_normal((6, 9))
    blocks = Blocks(seen @ seen.T, k @ k.T)
    assert blocks.ranks == (2, 6)
    np.testing.assert_allclose(blocks.coupling @ blocks.coupling, k @ k.T, atol=1e-12)
    small = blocks.damped
    np.testing.assert_allclose(np.linalg.eigvalsh(small.gram), np.linalg.svd(seen)[1][::-1] ** 2)
    basis = np.linalg.qr(seen)[0]
    np.testing.assert_allclose(
        np.linalg.eigvalsh(small.coupling_square), np.linalg.eigvalsh(basis.T @ k @ k.T @ basis)
    )
