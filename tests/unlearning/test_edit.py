"""The closed-form edit against least squares, and what it does to what a model sees."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdiv_jax.unlearning import EditConfig, Network, PromptPair, UnlearningConfig, unlearn
from fdiv_jax.unlearning.edit import aligned_tokens, solve_edit
from tests.tiny import tiny_pipeline

WEIGHTS = EditConfig(erase=2.0, preserve=0.7, ridge=0.3)


@pytest.fixture
def problem():
    """Rows of tokens and two matrices."""
    rng = np.random.default_rng(0)
    draw = rng.standard_normal
    return {"k": draw((6, 4)), "v": draw((6, 9))}, draw((5, 6)), draw((5, 6)), draw((11, 6))


def terms(target, anchor, stay, config):
    """(weight, rows, rows that they are to be seen as) of the three terms."""
    identity = np.eye(target.shape[1])
    return [
        (config.erase, target, anchor),
        (config.preserve * len(target) / max(1, len(stay)), stay, stay),
        (config.ridge, identity, identity),
    ]


def test_it_is_the_least_squares_solution(problem):
    matrices, target, anchor, stay = problem
    found = solve_edit(matrices, target, anchor, stay, WEIGHTS)
    assert set(found) == set(matrices)
    parts = terms(target, anchor, stay, WEIGHTS)
    left = np.concatenate([np.sqrt(weight) * rows for weight, rows, _ in parts])
    for name, w in matrices.items():
        right = np.concatenate([np.sqrt(weight) * seen @ w for weight, _, seen in parts])
        expected, *_ = np.linalg.lstsq(left, right, rcond=None)
        np.testing.assert_allclose(found[name], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kept", [True, False])
def test_no_change_makes_it_better(kept, problem):
    matrices, target, anchor, stay = problem
    stay = stay if kept else stay[:0]
    found = solve_edit(matrices, target, anchor, stay, WEIGHTS)
    rng = np.random.default_rng(1)
    for name, w in matrices.items():

        def cost(other, w=w):
            parts = terms(target, anchor, stay, WEIGHTS)
            return sum(weight * np.sum((rows @ other - seen @ w) ** 2) for weight, rows, seen in parts)

        least = cost(found[name])
        assert least < cost(w)
        for scale in (1e-4, 1e-2, 1.0):
            for _ in range(20):
                assert cost(found[name] + scale * rng.standard_normal(w.shape)) > least


def test_the_limits_of_the_weights(problem):
    matrices, target, anchor, stay = problem
    exact = solve_edit(matrices, target, anchor, stay[:0], EditConfig(ridge=1e-10))
    held = solve_edit(matrices, target, anchor, stay, EditConfig(ridge=1e10))
    same = solve_edit(matrices, target, target, stay, EditConfig())
    for name, w in matrices.items():
        np.testing.assert_allclose(target @ exact[name], anchor @ w, atol=1e-6)
        np.testing.assert_allclose(held[name], w, atol=1e-7)
        np.testing.assert_array_equal(same[name], w)


def test_twice_the_retained_prompts_count_no_more(problem):
    matrices, target, anchor, stay = problem
    once = solve_edit(matrices, target, anchor, stay, WEIGHTS)
    twice = solve_edit(matrices, target, anchor, np.concatenate([stay, stay]), WEIGHTS)
    np.testing.assert_allclose(twice["k"], once["k"], rtol=1e-10)


@pytest.fixture(scope="module")
def xl():
    """A tiny model with two text towers."""
    return tiny_pipeline(3, family="sdxl")


def hidden(pipe, prompts):
    text = pipe.encode_prompts(prompts)
    return np.asarray(getattr(text, "hidden", text))


@pytest.mark.parametrize(
    ("target", "anchor", "starts"),
    [  # tokens are letters: the start token, then one for each
        ("a cup, red", "a pot, red", (4, 4)),  # p and t differ, the rest is the same
        ("a cup, red", "a teapot, red", (4, 7)),
        ("a cup", "a bowl", (4, 5)),
        ("a cup", "", (4, 1)),  # the start of nothing is the end token
        ("cup", "cup red", (3, 6)),
    ],
)
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_tokens_from_the_end_of_the_concept_on(family, target, anchor, starts, pipe, xl):
    pipe = xl if family == "sdxl" else pipe
    found = aligned_tokens(pipe, PromptPair(target, anchor))
    text = hidden(pipe, [target, anchor])
    count = text.shape[1] - max(starts)
    for rows, features, start in zip(found, text, starts, strict=True):
        assert rows.shape == (count, pipe.unet.config.cross_attention_dim)
        np.testing.assert_allclose(rows, features[start : start + count], atol=1e-6)


def seen(pipe, prompt, matrices):
    """What every to_k and to_v makes of a prompt's tokens."""
    text = hidden(pipe, [prompt])[0]
    return [text @ np.asarray(w) for w in matrices]


def distance(a, b):
    return np.sqrt(sum(np.sum((x - y) ** 2) for x, y in zip(a, b, strict=True)))


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_the_target_is_seen_as_the_anchor(family, pipe, xl, tmp_path):
    pipe = xl if family == "sdxl" else pipe
    config = UnlearningConfig("sneaker", method="edit", edit=EditConfig(ridge=0.05))
    result = unlearn(pipe, config, tmp_path / "run", progress=False, cache=False)
    before, after = (Network.parameters(each.unet) for each in (pipe, result.pipeline))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {name for name in before if ".attn2.to_k." in name or ".attn2.to_v." in name}
    assert result.history == {}
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == ""
    names = sorted(changed)
    old, new = ([parameters[name] for name in names] for parameters in (before, after))
    for pair in result.pairs:
        target, anchor = aligned_tokens(pipe, pair)
        goal = [anchor @ np.asarray(w, np.float64) for w in old]
        first, last = (distance([target @ np.asarray(w, np.float64) for w in ws], goal) for ws in (old, new))
        assert last < 0.75 * first, pair

    def moved(prompts, matrices):
        return np.mean([distance(seen(pipe, p, matrices), seen(pipe, p, old)) for p in prompts])

    assert "a sandal, photo style" in result.retained
    assert moved(result.retained, new) < moved([pair.target for pair in result.pairs], new)
    free = unlearn(
        pipe,
        dataclasses.replace(config, edit=EditConfig(ridge=0.05, preserve=0.0)),
        progress=False,
        cache=False,
    )
    loose = [Network.parameters(free.pipeline.unet)[name] for name in names]
    assert moved(result.retained, new) < 0.75 * moved(result.retained, loose)


def test_the_same_again_is_the_same_bit_for_bit(pipe):
    config = UnlearningConfig("sneaker", method="edit", retained=("a shirt, photo style",))
    first, again = (unlearn(pipe, config, progress=False, cache=False) for _ in range(2))
    equal = jax.tree.map(np.array_equal, dict(first.learned), dict(again.learned))
    assert all(equal.values())
    assert all(value.dtype == jnp.float32 for value in first.learned.values())
