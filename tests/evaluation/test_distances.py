"""KID, FID and CMMD against PyTorch, scipy and plain sums on shared features."""

import numpy as np
import pytest
from scipy import linalg

from fdiv_jax.evaluation import cmmd, fid, frechet_distance, kid, kid_subsets

torch = pytest.importorskip("torch")


def features(n, d, seed, shift=0.0):
    """Like those of a network: positive, correlated, few of them large."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((n, d)) @ (rng.standard_normal((d, d)) / d**0.5)
    return np.abs(mixed + shift).astype(np.float32)


def torch_kid(x, y, paired=False):
    """Sums over every pair but those of an index with itself, in float64."""
    x, y = (torch.tensor(z, dtype=torch.float64) for z in (x, y))
    kernel = lambda a, b: (a @ b.T / x.shape[1] + 1) ** 3  # noqa: E731
    off = lambda k: (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1))  # noqa: E731
    cross = off(kernel(x, y)) if paired else kernel(x, y).mean()
    return float(off(kernel(x, x)) + off(kernel(y, y)) - 2 * cross)


@pytest.mark.interop
@pytest.mark.parametrize(("n", "m", "d"), [(40, 40, 12), (30, 55, 100), (1500, 1100, 8)])
def test_kid_is_the_sum_over_pairs(n, m, d):
    x, y = features(n, d, 0), features(m, d, 1, 0.2)
    assert kid(x, y) == pytest.approx(torch_kid(x, y), rel=1e-9)
    least = min(n, m)
    assert kid(x[:least], y[:least], paired=True) == pytest.approx(
        torch_kid(x[:least], y[:least], True), rel=1e-9
    )


def test_kid_of_a_set_with_itself():
    x = features(30, 6, 0)
    assert kid(x, 2 * x, scale=24.0) == pytest.approx(kid(x / 2, x), rel=1e-9)
    assert kid(x, x, paired=True) == pytest.approx(0, abs=1e-10)
    assert kid(x, x) < 0  # the pairs i = j are in the last mean only


def test_kid_is_unbiased():
    """Over draws of one distribution its mean is 0, with whatever few images; CMMD's and FID's is not."""
    rng = np.random.default_rng(3)
    draws = [(rng.standard_normal((8, 3)), rng.standard_normal((8, 3))) for _ in range(2000)]
    for scores, unbiased in (
        ([kid(*each) for each in draws], True),
        ([cmmd(*each) for each in draws], False),
        ([fid(*each) for each in draws], False),
    ):
        z = np.mean(scores) / (np.std(scores) / len(scores) ** 0.5)
        assert abs(z) < 4 if unbiased else z > 20


@pytest.mark.interop
def test_kid_of_subsets_is_that_of_torch_fidelity():
    """Its draws: RandomState(seed), for each subset a choice from the first set, then one from the second."""
    x, y = features(60, 5, 0), features(50, 5, 1, 0.1)
    rng, found = np.random.RandomState(7), []
    for _ in range(9):
        a = x[rng.choice(60, 20, replace=False)]
        found.append(torch_kid(a, y[rng.choice(50, 20, replace=False)]))
    mean, deviation = kid_subsets(x, y, subsets=9, size=20, seed=7)
    assert (mean, deviation) == pytest.approx((np.mean(found), np.std(found)), rel=1e-9)
    with pytest.raises(ValueError, match="size=51"):
        kid_subsets(x, y, size=51)


def scipy_fid(x, y):
    x, y = x.astype(np.float64), y.astype(np.float64)
    covariances = [np.cov(z, rowvar=False) for z in (x, y)]
    root = linalg.sqrtm(covariances[0] @ covariances[1])
    between = x.mean(0) - y.mean(0)
    return between @ between + sum(np.trace(c) for c in covariances) - 2 * np.trace(root).real


@pytest.mark.parametrize(("n", "m", "d"), [(400, 300, 20), (90, 120, 64)])
def test_fid_is_scipys(n, m, d):
    x, y = features(n, d, 0), features(m, d, 1, 0.3)
    assert fid(x, y) == pytest.approx(scipy_fid(x, y), rel=1e-7)
    moments = [part for z in (x, y) for part in (z.mean(0, dtype=float), np.cov(z, rowvar=False))]
    assert frechet_distance(*moments) == pytest.approx(scipy_fid(x, y), rel=1e-7)


def test_fid_of_fewer_images_than_features():
    """In the subspace that the images span, where the covariances have full rank, it is scipy's."""
    rng = np.random.default_rng(0)
    small_x, small_y = rng.standard_normal((300, 10)), rng.standard_normal((300, 10)) + 0.4
    x, y = small_x[:20], small_y[:20]
    basis = np.linalg.qr(rng.standard_normal((512, 10)))[0]
    assert fid(x @ basis.T, y @ basis.T) == pytest.approx(scipy_fid(x, y), rel=1e-7)
    assert fid(x @ basis.T, x @ basis.T) == pytest.approx(0, abs=1e-9)


def test_fid_of_gaussians_that_commute_is_a_closed_form():
    a, b = np.array([0.5, 2.0, 9.0]), np.array([1.0, 0.0, 4.0])
    expected = ((np.sqrt(a) - np.sqrt(b)) ** 2).sum() + 3 * 0.25
    assert frechet_distance(np.zeros(3), np.diag(a), np.full(3, 0.5), np.diag(b)) == pytest.approx(expected)
    with pytest.raises(ValueError, match="eigenvalue -1"):
        frechet_distance(np.zeros(2), np.diag([1.0, -1.0]), np.zeros(2), np.eye(2))
    with pytest.raises(ValueError, match="symmetric"):
        frechet_distance(np.zeros(2), [[1.0, 0.5], [0.0, 1.0]], np.zeros(2), np.eye(2))
    with pytest.raises(ValueError, match=r"\(3, 3\)"):
        frechet_distance(np.zeros(2), np.eye(3), np.zeros(2), np.eye(2))


@pytest.mark.interop
@pytest.mark.parametrize(("n", "m"), [(40, 60), (1300, 20)])
def test_cmmd_is_the_published_codes(n, m):
    """Means of the kernel over all pairs, written as there, in PyTorch's float64."""
    x, y = features(n, 16, 0), features(m, 16, 1, 0.5)
    x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
    gamma = 1 / (2 * 10**2)

    def mean_kernel(a, b):
        a, b = (torch.tensor(z, dtype=torch.float64) for z in (a, b))
        squares = (a @ a.T).diagonal()[:, None] + (b @ b.T).diagonal()[None]
        return torch.exp(-gamma * (-2 * a @ b.T + squares)).mean()

    expected = 1000 * (mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y))
    assert cmmd(x, y) == pytest.approx(float(expected), rel=1e-8)


@pytest.mark.parametrize("distance", [kid, fid, cmmd])
def test_bad_features(distance):
    x = features(5, 3, 0)
    for wrong in (x[:, :2], x[:, 0], x[:0]):
        with pytest.raises(ValueError, match="expected \\(n, d\\)"):
            distance(x, wrong)
    with pytest.raises(ValueError, match="not finite"):
        distance(x, x * np.nan)
    with pytest.raises(ValueError, match="as many"):
        kid(x, x[:3], paired=True)
