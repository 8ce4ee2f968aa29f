"""The closed forms beside UCE: each against the problem that it solves, put in another way."""

import dataclasses

import numpy as np
import pytest

from fdiv_jax.unlearning import EditConfig, Network, PromptPair, UnlearningConfig, unlearn
from fdiv_jax.unlearning.closed_forms import adversarial_rows, invariant_rows, solve_edit
from fdiv_jax.unlearning.edit import aligned_tokens, surrounding_tokens

D = 7


@pytest.fixture
def rows():
    """Matrices (in, out), and rows: target, anchor, retained (of rank 3), fixed."""
    rng = np.random.default_rng(0)
    draw = rng.standard_normal
    matrices = {"k": draw((D, 4)), "v": draw((D, 9))}
    return matrices, draw((5, D)), draw((5, D)), draw((11, 3)) @ draw((3, D)), draw((2, D))


def least_squares(matrix, terms):
    """argmin over W' of sum weight |rows W' - goal|^2, by stacking: the terms are (weight, rows, goal)."""
    left = np.concatenate([np.sqrt(weight) * rows for weight, rows, _ in terms])
    right = np.concatenate([np.sqrt(weight) * goal for weight, _, goal in terms])
    return np.linalg.lstsq(left, right, rcond=None)[0].reshape(matrix.shape)


def test_the_derived_rows_are_the_least_squares_ones(rows):
    matrices, target, *_ = rows
    edited = np.eye(D) + 0.3 * np.random.default_rng(1).standard_normal((D, D))
    gram = sum(w @ w.T for w in matrices.values())
    found = adversarial_rows(target, gram, edited, 0.2)
    # column by column:  min sum_W |(L W)^T t' - W^T t|^2 + 0.2 |t'|^2
    left = np.concatenate([(edited @ w).T for w in matrices.values()] + [np.sqrt(0.2) * np.eye(D)])
    right = np.concatenate([w.T @ target.T for w in matrices.values()] + [np.zeros((D, len(target)))])
    np.testing.assert_allclose(found.T, np.linalg.lstsq(left, right, rcond=None)[0], atol=1e-12)


@pytest.mark.parametrize("rounds", [1, 3])
def test_rece_is_its_rounds_one_after_the_other(rounds, rows):
    """Every round as published: matrices, derived rows and targets of their own, nothing shared."""
    matrices, target, anchor, stay, _ = rows
    config = EditConfig("rece", erase=2.0, preserve=0.7, ridge=0.3, rounds=rounds, regularisation=0.2)
    found = solve_edit(matrices, target, anchor, stay, config)
    now = solve_edit(matrices, target, anchor, stay, dataclasses.replace(UCE, preserve=0.7))
    weight = 0.7 * len(target) / len(stay)
    for _ in range(rounds):
        left = np.concatenate([w.T for w in now.values()] + [np.sqrt(0.2) * np.eye(D)])
        right = np.concatenate([w.T @ target.T for w in matrices.values()] + [np.zeros((D, len(target)))])
        derived = np.linalg.lstsq(left, right, rcond=None)[0].T
        now = {
            name: least_squares(
                w, [(2.0, derived, anchor @ w), (weight, stay, stay @ w), (0.3, np.eye(D), w)]
            )
            for name, w in now.items()
        }
    for name, expected in now.items():
        np.testing.assert_allclose(found[name], expected, atol=1e-11)


UCE = EditConfig(erase=2.0, ridge=0.3)
SPEED = EditConfig("speed", erase=2.0, ridge=0.3, threshold=1e-8, filtered=False, augment=0)


def with_constraints(w, target, anchor, held, config):
    """The edit that speed asks for: least squares among the changes that `held` (rows) does not see, by the
    Karush-Kuhn-Tucker equations."""
    weight = config.erase / len(target)
    hessian = weight * target.T @ target + config.ridge * np.eye(D)
    gradient = weight * target.T @ (anchor - target) @ w
    zero = np.zeros((len(held), len(held)))
    system = np.block([[hessian, held.T], [held, zero]])
    right = np.concatenate([gradient, np.zeros((len(held), w.shape[1]))])
    return w + np.linalg.lstsq(system, right, rcond=None)[0][:D]


def test_speed_is_the_constrained_least_squares_solution(rows):
    matrices, target, anchor, stay, fixed = rows
    found = solve_edit(matrices, target, anchor, stay, SPEED, fixed=fixed)
    for name, w in matrices.items():
        expected = with_constraints(w, target, anchor, np.concatenate([stay, fixed]), SPEED)
        np.testing.assert_allclose(found[name], expected, atol=1e-10)
        np.testing.assert_allclose(np.concatenate([stay, fixed]) @ (found[name] - w), 0, atol=1e-12)
        before, after = (np.linalg.norm(target @ m - anchor @ w) for m in (w, found[name]))
        assert after < before


def test_speed_as_it_is_published(rows):
    """Delta = W (C_* C_1^T - C_1 C_1^T) P Q M with columns for rows and (out, in) for (in, out)."""
    matrices, target, anchor, stay, fixed = rows
    config = dataclasses.replace(SPEED, erase=1.0, ridge=0.8, threshold=1.0)
    found = solve_edit(matrices, target, anchor, stay, config, fixed=fixed)
    c1, goal, c2 = target.T / np.sqrt(len(target)), anchor.T / np.sqrt(len(target)), fixed.T
    u, s, _ = np.linalg.svd(stay.T @ stay / len(stay))
    assert 0 < np.sum(s >= 1.0) < 3  # the threshold lets some directions of the retained rows go
    p = u[:, s < 1.0] @ u[:, s < 1.0].T
    m = np.linalg.inv(c1 @ c1.T @ p + 0.8 * np.eye(D))
    q = np.eye(D) - m @ c2 @ np.linalg.inv(c2.T @ p @ m @ c2) @ c2.T @ p
    for name, w in matrices.items():
        delta = w.T @ (goal @ c1.T - c1 @ c1.T) @ p @ q @ m
        np.testing.assert_allclose(found[name], w + delta.T, atol=1e-10)


def test_the_filter_holds_what_would_move_more_than_the_average(rows):
    matrices, target, anchor, stay, fixed = rows
    stay = np.random.default_rng(2).standard_normal((4, D))
    found = solve_edit(matrices, target, anchor, stay, dataclasses.replace(SPEED, filtered=True), fixed=fixed)
    for name, w in matrices.items():
        n = len(target)
        free = least_squares(w, [(1 / n, target, anchor @ w), (1.0, np.eye(D), w)])
        influence = np.linalg.norm(stay @ (free - w), axis=1)
        held = stay[influence > influence.mean()]
        assert 0 < len(held) < len(stay)
        expected = with_constraints(w, target, anchor, np.concatenate([held, fixed]), SPEED)
        np.testing.assert_allclose(found[name], expected, atol=1e-10)


def test_augmented_rows_hold_the_direction_that_a_matrix_sees_least(rows):
    matrices, target, anchor, stay, _ = rows
    config = dataclasses.replace(SPEED, augment=20)
    found = solve_edit(matrices, target, anchor, stay, config, seed=3)
    for name, w in matrices.items():
        least = np.linalg.svd(w, full_matrices=False)[0][:, -1:].T
        expected = with_constraints(w, target, anchor, np.concatenate([stay, least]), config)
        np.testing.assert_allclose(found[name], expected, atol=1e-9)


@pytest.mark.parametrize("filtered", [True, False])
def test_augmented_rows_are_filtered_too(filtered, rows):
    """Copy by copy; the threshold lets some directions of the held rows go, so that their number matters."""
    matrices, target, anchor, *_ = rows
    stay = np.random.default_rng(2).standard_normal((9, D))
    config = dataclasses.replace(SPEED, augment=20, filtered=filtered, threshold=0.7)
    found, again, other = (solve_edit(matrices, target, anchor, stay, config, seed=s) for s in (3, 3, 4))
    for number, (name, w) in enumerate(matrices.items()):
        np.testing.assert_array_equal(found[name], again[name])
        assert not np.allclose(found[name], other[name])
        free = least_squares(w, [(1 / len(target), target, anchor @ w), (1.0, np.eye(D), w)])
        influence = np.linalg.norm(stay @ (free - w), axis=1)
        kept = stay[influence >= influence.mean()] if filtered else stay
        z = np.random.default_rng((3, number)).standard_normal((20, len(kept)))
        least = np.linalg.svd(w, full_matrices=False)[0][:, -1]
        wrong = []
        for sign in (1, -1):  # of a singular vector
            copies = np.concatenate([kept + sign * row[:, None] * least for row in z])
            influence = np.linalg.norm(copies @ (free - w), axis=1)
            held = np.concatenate([kept, copies[influence >= influence.mean()]])
            squares, directions = np.linalg.eigh(held.T @ held / len(held))
            assert 0 < np.sum(squares >= 0.7) < D
            expected = with_constraints(w, target, anchor, directions[:, squares >= 0.7].T, config)
            wrong.append(np.abs(found[name] - expected).max())
        assert min(wrong) < 1e-9


def test_a_target_among_what_is_retained_is_refused(rows):
    matrices, target, anchor, *_ = rows
    with pytest.raises(ValueError, match=r"tokens lie among the retained ones at edit\.threshold 1e-08"):
        solve_edit(matrices, target[:2], anchor[:2], np.tile(target, (3, 1)), SPEED)


def test_what_every_prompt_shares():
    rng = np.random.default_rng(0)
    centres = np.array([[9.0, 0, 0], [0, 9, 0], [0, 0, 9]])
    empty = np.concatenate(
        [rng.standard_normal((1, 3)), *(c + 0.1 * rng.standard_normal((6, 3)) for c in centres)]
    )
    found = invariant_rows(empty)
    np.testing.assert_array_equal(found[0], empty[0])
    means = [empty[1 + 6 * k : 7 + 6 * k].mean(0) for k in range(3)]
    nearest = [min(means, key=lambda mean: np.linalg.norm(mean - row)) for row in found[1:]]
    np.testing.assert_allclose(sorted(map(tuple, found[1:])), sorted(map(tuple, nearest)), atol=1e-12)
    assert len(found) == 4
    assert len(invariant_rows(np.ones((5, 3)))) == 2  # one kind of token


@pytest.mark.parametrize(
    ("target", "anchor", "before", "starts"),
    [  # tokens are letters: the start token, then one for each
        ("a cup, red", "a pot, red", 2, (5, 5)),
        ("a cup, red", "a teapot, red", 2, (5, 8)),
        ("a cup", "a bowl", 2, (5, 6)),
        ("a cup", "", 1, (5, 1)),
        ("cup", "cup red", 4, (4, 7)),
    ],
)
def test_tokens_around_the_concept(target, anchor, before, starts, pipe):
    found = surrounding_tokens(pipe, PromptPair(target, anchor))
    text = np.asarray(pipe.encode_prompts([target, anchor]))
    count = text.shape[1] - max(starts)
    for rows, features, start in zip(found, text, starts, strict=True):
        expected = np.concatenate([features[:before], features[start : start + count]])
        np.testing.assert_allclose(rows, expected, atol=1e-6)


@pytest.mark.parametrize("form", ["rece", "speed", "refinement"])
def test_on_a_model(form, pipe):
    """Every form brings what is seen of the target nearer to the anchor, and speed touches to_v alone."""
    values = r"\.attn2\.to_v\."
    trainable = values if form == "speed" else "cross-attn"
    edit = EditConfig(form, ridge=0.05, **({"threshold": 2.0} if form == "speed" else {}))
    retained = ("", "a shirt, photo style")
    config = UnlearningConfig("sneaker", method="edit", trainable=trainable, edit=edit, retained=retained)
    result = unlearn(pipe, config, progress=False, cache=False)
    before, after = (Network.parameters(each.unet) for each in (pipe, result.pipeline))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    expected = {name for name in before if ".attn2.to_v." in name or ".attn2.to_k." in name}
    assert changed == {name for name in expected if trainable == "cross-attn" or ".to_v." in name}
    rows = surrounding_tokens if form == "refinement" else aligned_tokens
    for pair in result.pairs:
        target, anchor = rows(pipe, pair)
        for name in changed:
            old, new = (np.asarray(p[name], np.float64) for p in (before, after))
            first, last = (np.linalg.norm(target @ w - anchor @ old) for w in (old, new))
            assert last < (1.0 if form == "speed" else 0.95) * first, (pair, name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"form": "rece2"}, "edit.form must be one of uce, rece, speed, refinement.*did you mean 'rece'"),
        ({"rounds": 3}, "edit.rounds 3 with edit.form 'uce', which has none; expected edit.form 'rece'"),
        ({"form": "rece", "rounds": 0}, "edit.rounds must be an integer >= 1, got 0"),
        ({"form": "rece", "threshold": 0.2}, "edit.threshold 0.2 with edit.form 'rece'.*'speed'"),
        ({"form": "speed", "augment": -1}, "edit.augment must be an integer >= 0"),
        ({"form": "speed", "regularisation": 1.0}, "edit.regularisation 1.0 with edit.form 'speed'.*'rece'"),
    ],
)
def test_refused_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        EditConfig(**settings)


def test_other_parameters_are_refused(pipe):
    with pytest.raises(ValueError, match="with trainable 'attn': it solves for to_k and to_v"):
        UnlearningConfig("sneaker", method="edit", trainable="attn")
    config = UnlearningConfig("sneaker", method="edit", trainable=r"\.attn2\.to_[qv]\.")
    with pytest.raises(ValueError, match=r"which finds .*attn2\.to_q\.kernel: it solves for to_k and to_v"):
        unlearn(pipe, config, progress=False, cache=False)
