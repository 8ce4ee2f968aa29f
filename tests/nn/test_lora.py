"""The mathematics of low-rank changes: merging, its gradient, and the best change of a rank."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from fdiv_jax.nn.lora import Lora, extract_lora, init_lora, merge_lora

SHAPES = {
    "a.to_k.kernel": (6, 10),
    "b.conv1.kernel": (3, 3, 4, 7),
    "b.shortcut.kernel": (1, 1, 4, 7),
    "b.conv1.bias": (7,),
    "token.embedding": (9, 6),
}
KERNELS = [name for name in SHAPES if name.endswith("kernel")]


def draw(shapes, seed):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.standard_normal(shape), jnp.float32) for name, shape in shapes.items()}


@pytest.fixture
def parameters():
    return draw(SHAPES, 0)


def drawn_lora(parameters, rank=2, alpha=3.0, names=KERNELS):
    lora = init_lora(parameters, names, rank=rank, alpha=alpha, key=jax.random.key(0))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape), jnp.float32), lora)


def test_what_was_just_made_changes_nothing_and_can_learn(parameters):
    lora = init_lora(parameters, KERNELS, rank=3, key=jax.random.key(0))
    merged = merge_lora(parameters, lora)
    assert all(np.array_equal(merged[name], parameters[name]) for name in parameters)
    assert lora.targets == ("a.to_k", "b.conv1", "b.shortcut")
    assert {lora.scale(target) for target in lora.targets} == {1.0}

    def loss(lora):
        return sum(jnp.sum(value**3) for value in merge_lora(parameters, lora).values())

    gradient = jax.grad(loss)(lora)
    assert isinstance(gradient, Lora)
    for target in lora.targets:
        down, up = gradient.pair(target)
        assert not np.any(down)
        assert np.any(up)
    downs = [lora.pair(target)[0] for target in lora.targets]
    for down, fan_in in zip(downs, (6, 36, 4), strict=True):
        assert 0.5 / fan_in**0.5 < float(np.abs(down).max()) <= 1 / fan_in**0.5


def test_a_merged_linear_is_the_layer_plus_its_branch(parameters):
    lora = drawn_lora(parameters)
    x = draw({"x": (5, 6)}, 2)["x"]
    down, up = lora.pair("a.to_k")
    expected = x @ parameters["a.to_k.kernel"] + 0.5 * (3 / 2) * (x @ down) @ up
    merged = merge_lora(parameters, lora, strength=0.5)
    np.testing.assert_allclose(x @ merged["a.to_k.kernel"], expected, rtol=1e-4, atol=1e-4)
    assert merged["b.conv1.bias"] is parameters["b.conv1.bias"]


@pytest.mark.parametrize("target", ["b.conv1", "b.shortcut"])
def test_a_merged_convolution_is_the_layer_plus_its_branch(parameters, target):
    lora = drawn_lora(parameters)
    x = draw({"x": (2, 5, 5, 4)}, 2)["x"]

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    down, up = lora.pair(target)
    kernel = f"{target}.kernel"
    expected = convolve(x, parameters[kernel]) + 1.5 * convolve(convolve(x, down), up)
    np.testing.assert_allclose(
        convolve(x, merge_lora(parameters, lora)[kernel]), expected, rtol=1e-4, atol=2e-4
    )


@pytest.mark.slow
def test_the_gradient_is_that_of_finite_differences(parameters, x64):
    parameters = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), parameters)
    lora = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), drawn_lora(parameters))

    def loss(lora, strength):
        return sum(jnp.sum(jnp.sin(v)) for v in merge_lora(parameters, lora, strength=strength).values())

    check_grads(loss, (lora, 0.7), order=1, modes=("fwd", "rev"))


def test_it_passes_through_jit_and_keeps_dtypes(parameters):
    lora = drawn_lora(parameters)
    merged = jax.jit(merge_lora)(parameters, lora)
    for name, value in merge_lora(parameters, lora).items():
        np.testing.assert_allclose(merged[name], value, rtol=1e-5, atol=1e-6)
    half = merge_lora({name: value.astype(jnp.bfloat16) for name, value in parameters.items()}, lora)
    assert {value.dtype for value in half.values()} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("alpha", [None, 0.5, 12.0])
def test_a_change_of_low_rank_is_found_exactly(parameters, alpha):
    changed = merge_lora(parameters, drawn_lora(parameters, rank=2))
    found = extract_lora(parameters, changed, 2, alpha=alpha)
    assert found.error < 1e-5
    assert all(found.lora.alpha[target] == (2 if alpha is None else alpha) for target in found.lora.targets)
    for name, value in merge_lora(parameters, found.lora).items():
        np.testing.assert_allclose(value, changed[name], atol=3e-5)


def test_the_error_left_is_that_of_the_best_approximation(parameters):
    noise = draw(SHAPES, 3)
    changed = {n: v + 0.1 * noise[n] if n in KERNELS else v for n, v in parameters.items()}
    found = extract_lora(parameters, changed, 3)
    left = total = 0.0
    for name in KERNELS:
        difference = np.asarray(changed[name], np.float64) - np.asarray(parameters[name])
        rest = np.asarray(changed[name]) - merge_lora(parameters, found.lora)[name]
        values = np.linalg.svd(difference.reshape(-1, difference.shape[-1]), compute_uv=False)
        best = np.sqrt(np.sum(values[3:] ** 2))
        assert np.linalg.norm(rest) == pytest.approx(best, rel=1e-4)
        assert found.errors[name.removesuffix(".kernel")] == pytest.approx(
            best / np.linalg.norm(difference), rel=1e-6
        )
        left, total = left + best**2, total + np.sum(difference**2)
    assert found.error == pytest.approx(np.sqrt(left / total), rel=1e-6)


def test_only_what_changed_and_was_named_is_extracted(parameters):
    changed = dict(parameters, **{name: parameters[name] + 1 for name in ("a.to_k.kernel", "b.conv1.bias")})
    with pytest.raises(ValueError, match=r"1 changed parameters are not kernels.*b\.conv1\.bias"):
        extract_lora(parameters, changed, 1)
    assert extract_lora(parameters, changed, 1, KERNELS).lora.targets == ("a.to_k",)
    with pytest.raises(ValueError, match="none of 1 parameters changed"):
        extract_lora(parameters, changed, 1, ["b.conv1.kernel"])


@pytest.mark.parametrize(
    ("rank", "target"), [(0, "a.to_k"), (7, "a.to_k"), (5, "b.shortcut"), (8, "b.conv1")]
)
def test_a_rank_that_a_kernel_does_not_have_is_not_trained(parameters, rank, target):
    with pytest.raises(ValueError, match=rf"rank {rank} for {target}.*expected 1 to"):
        init_lora(parameters, [f"{target}.kernel"], rank=rank, key=jax.random.key(0))


@pytest.mark.parametrize("alpha", [None, 2.0])
def test_a_kernel_of_a_lower_rank_is_kept_whole(parameters, alpha):
    noise = draw(SHAPES, 3)
    changed = {n: v + 0.1 * noise[n] if n in KERNELS else v for n, v in parameters.items()}
    lora = extract_lora(parameters, changed, 6, alpha=alpha).lora
    full = {"a.to_k": 6, "b.conv1": 6, "b.shortcut": 4}  # of 7 and 4, the smaller sides of the last two
    assert {target: lora.rank(target) for target in lora.targets} == full
    assert lora.alpha == {target: rank if alpha is None else alpha for target, rank in full.items()}
    merged = merge_lora(parameters, lora)
    for name in ("a.to_k.kernel", "b.shortcut.kernel"):
        np.testing.assert_allclose(merged[name], changed[name], atol=1e-5)
    assert np.abs(merged["b.conv1.kernel"] - changed["b.conv1.kernel"]).max() > 1e-3
    with pytest.raises(ValueError, match="rank 0, expected at least 1"):
        extract_lora(parameters, changed, 0)


@pytest.mark.parametrize("each", ["output", "input"])
def test_a_magnitude_is_the_norm_of_the_merged_weights(parameters, each):
    lora = drawn_lora(parameters)
    sizes = {name.removesuffix(".kernel"): SHAPES[name] for name in KERNELS}
    rng = np.random.default_rng(4)
    magnitudes = {
        target: jnp.asarray(
            rng.uniform(1, 2, shape[-1:] if each == "output" else (shape[-2], 1)), jnp.float32
        )
        for target, shape in sizes.items()
    }
    with_norms = Lora(lora.factors, lora.alpha, magnitudes)
    plain = merge_lora(parameters, lora, strength=0.5)
    for target, value in magnitudes.items():
        kernel = np.asarray(merge_lora(parameters, with_norms, strength=0.5)[f"{target}.kernel"], np.float64)
        before = np.asarray(plain[f"{target}.kernel"], np.float64)
        kernel, before = (np.moveaxis(x, -1 if each == "output" else -2, 0) for x in (kernel, before))
        kernel, before = (x.reshape(len(x), -1) for x in (kernel, before))
        np.testing.assert_allclose(np.linalg.norm(kernel, axis=1), value.ravel(), rtol=1e-5)
        directions = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (kernel, before))
        np.testing.assert_allclose(*directions, atol=1e-6)
    again = jax.tree.unflatten(jax.tree.structure(with_norms), jax.tree.leaves(with_norms))
    assert again.magnitudes == with_norms.magnitudes
    with pytest.raises(
        ValueError, match=r"a\.to_k: magnitudes of shape \(3,\), expected \(10,\) or \(6, 1\)"
    ):
        Lora(lora.factors, lora.alpha, {"a.to_k": jnp.ones(3)})
    with pytest.raises(ValueError, match="magnitudes without factors: nowhere"):
        Lora(lora.factors, lora.alpha, {"nowhere": jnp.ones(3)})


def test_what_does_not_go_together_is_named(parameters):
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="expected at least one kernel"):
        init_lora(parameters, [], rank=1, key=key)
    with pytest.raises(ValueError, match="no parameter nowhere"):
        init_lora(parameters, ["nowhere.kernel"], rank=1, key=key)
    with pytest.raises(ValueError, match=r"token\.embedding is not a kernel"):
        init_lora(parameters, ["token.embedding"], rank=1, key=key)
    lora = drawn_lora(parameters)
    with pytest.raises(ValueError, match=r"a\.to_k\.kernel has shape \(5, 10\)"):
        merge_lora({**parameters, "a.to_k.kernel": jnp.zeros((5, 10))}, lora)
    with pytest.raises(ValueError, match=r"no parameter b\.conv1\.kernel"):
        merge_lora({n: v for n, v in parameters.items() if n != "b.conv1.kernel"}, lora)
    with pytest.raises(ValueError, match="do not go together"):
        Lora(lora.factors, {"a.to_k": 1.0})
    down, _ = lora.pair("a.to_k")
    with pytest.raises(ValueError, match=r"a\.to_k: factors of shapes"):
        Lora({"a.to_k.lora_down.kernel": down, "a.to_k.lora_up.kernel": down}, {"a.to_k": 1.0})
    with pytest.raises(ValueError, match="alpha -1"):
        extract_lora(parameters, parameters, 1, alpha=-1)
    with pytest.raises(ValueError, match="differ in parameters"):
        extract_lora(parameters, {}, 1)
    broken = {**parameters, "a.to_k.kernel": parameters["a.to_k.kernel"] * jnp.nan}
    with pytest.raises(ValueError, match=r"a\.to_k\.kernel has values that are not finite"):
        extract_lora(parameters, broken, 1)
