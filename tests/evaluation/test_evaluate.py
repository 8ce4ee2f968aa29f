"""An evaluation as a whole: known images, equal models, what is kept, and what cannot be compared."""

import dataclasses
import json

import numpy as np
import pytest

from fdiv_jax.evaluation import (
    Backbones,
    ClipScorer,
    Figure,
    Interval,
    SetView,
    UnlikeError,
    erasure_accuracy,
    feature_change,
    figures_of,
    images,
    kid,
    pixel_change,
    read_evaluation,
    run_protocol,
)
from tests.evaluation.models import BySum, protocol, shrunk_pixels
from tests.tiny import tiny_pipeline

BACKBONES = Backbones(classifier=BySum(), features=shrunk_pixels())


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    output = tmp_path_factory.mktemp("evaluate") / "out"
    base, other = tiny_pipeline(), tiny_pipeline(1)
    return run_protocol(base, {"same": base, "other": other}, protocol(), BACKBONES, output=output), output


def test_a_model_that_is_the_base_differs_by_intervals_that_hold_0(evaluated):
    result, _ = evaluated
    same = result.models["same"]
    assert same.sha256 == result.base.sha256
    compared = [figure for figure in same.figures if figure.difference is not None]
    assert {figure.metric for figure in compared} == {"ua", "ira", "cra", "harmonic"}
    for figure in compared:
        assert figure.difference.value == 0
        assert figure.difference.low <= 0 <= figure.difference.high
        assert figure.value.value == figure.base
        assert not figure.clear
    for figure in same.figures:
        if figure.metric in ("kid", "fid", "pixel_change", "feature_change"):
            assert figure.value.holds(0.0)
            assert abs(figure.value.value) < 1e-9
    assert result.models["other"].figure("pixel_change", "retained").value.low > 0


def test_figures_are_those_of_the_images(evaluated):
    """Against the metrics' own functions, on images that the pipelines draw here."""
    result, _ = evaluated
    pipes = {"base": tiny_pipeline(), "other": tiny_pipeline(1)}
    plan, other = result.protocol, result.models["other"]
    drawn = {name: _drawn(pipe, plan) for name, pipe in pipes.items()}
    retained = plan.sets[-1]
    every = [(prompt, seed) for prompt in retained.prompts for seed in plan.retained_seeds]
    pictures = [np.stack([drawn[name][each] for each in every]) for name in pipes]
    expected = pixel_change(pictures[1], pictures[0]).mean()
    assert other.figure("pixel_change", "retained").value.value == pytest.approx(expected, abs=0.005)
    features = shrunk_pixels()
    change = feature_change(features, pictures[1], pictures[0]).mean()
    assert other.figure("feature_change", "retained").value.value == pytest.approx(change, rel=0.03)
    distance = kid(features(pictures[1]), features(pictures[0]), paired=True)
    assert other.figure("kid", "retained").value.value == pytest.approx(distance, rel=0.05, abs=1e-3)
    assert other.figure("ua").images == 2 * 3
    assert other.figure("cra").images == 2 * 3 + 2 * 2
    assert other.figure("ua").prompts == 2
    assert [figure.metric for figure in result.base.figures] == ["ua", "ira", "cra", "harmonic"]


@pytest.fixture(autouse=True, scope="module")
def few_at_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "_AT_ONCE", 3)
        yield


def _drawn(pipe, plan):
    every = list(plan.images())
    found = {}
    for i in range(0, len(every), 3):
        part = (every[i : i + 3] * 3)[:3]
        drawn = pipe([p for p, _ in part], seed=[s for _, s in part], steps=2, guidance=2.0)
        found |= dict(zip(part, drawn, strict=True))
    return found


def test_accuracies_are_unlearncanvas_own():
    """The same labels through `erasure_accuracy`, which knows no protocol; and tables with missing seeds."""
    rng = np.random.default_rng(3)
    sets = [each for each in protocol().sets if each.role != "anchor"]
    plan = protocol(sets=tuple(sets), metrics=("ua", "ira", "cra", "harmonic"), retained_seeds=(0, 1, 2))
    classes = {"item": ["sneaker", "shirt"], "style": ["photo", "sketch"]}
    seen = {kind: rng.choice(names, (4, 3)) for kind, names in classes.items()}
    prompts = [dict(labels) for each in plan.sets for labels in each.shows]
    named = {kind: [labels[kind] for labels in prompts] for kind in classes}
    views = []
    for i, each in enumerate(plan.sets):
        rows = slice(2 * i, 2 * i + 2)
        right = {
            kind: (seen[kind][rows] == np.asarray(named[kind][rows])[:, None]).astype(float)
            for kind in classes
        }
        views.append(SetView(each, plan.seeds(each.role), right, change=np.zeros((2, 3))))
    found = {figure.metric: figure.value for figure in figures_of(plan, views, None)}
    expected = erasure_accuracy(seen, named, "sneaker", "item")
    for name, value in zip(("ua", "ira", "cra", "harmonic"), expected, strict=True):
        np.testing.assert_allclose(found[name], value, atol=1e-12)

    fewer = protocol(sets=tuple(sets), metrics=("cra",), retained_seeds=(0, 2))
    kept = [
        views[0],
        SetView(
            sets[1], (0, 2), {k: v[:, [0, 2]] for k, v in views[1].right.items()}, change=np.zeros((2, 2))
        ),
    ]
    (cra,) = figures_of(fewer, kept, None)
    ones = [*views[0].right["style"].ravel(), *kept[1].right["style"].ravel()]
    assert cra.value.value == pytest.approx(np.mean(ones))


def test_a_real_change_is_clear_and_chance_is_not():
    """Models whose classifier is right at random: `clear` is rare where nothing changed."""
    rng = np.random.default_rng(0)
    sets = [each for each in protocol().sets if each.role != "anchor"]
    sets = [
        dataclasses.replace(each, prompts=tuple(f"{each.prompts[0]} {i}" for i in range(12)), shows=())
        for each in sets
    ]
    plan = protocol(sets=tuple(sets), metrics=("ua", "ira"), target_seeds=(0, 1, 2), retained_seeds=(0, 1, 2))

    def views(*rates):
        return [
            SetView(
                each,
                (0, 1, 2),
                {"item": (rng.random((12, 3)) < rate).astype(float)},
                change=np.zeros((12, 3)),
            )
            for each, rate in zip(sets, rates, strict=True)
        ]

    false = sum(
        bool(figure.clear) for _ in range(40) for figure in figures_of(plan, views(0.7, 0.7), views(0.7, 0.7))
    )
    assert false <= 6
    gone = figures_of(plan, views(0.0, 0.7), views(1.0, 0.7))[0]
    assert gone.clear
    assert gone.difference.value == pytest.approx(1.0)


def test_the_result_can_be_read_back(evaluated):
    result, output = evaluated
    assert read_evaluation(output) == result
    content = json.loads((output / "result.json").read_text())
    assert content["protocol"]["sha256"] == result.protocol.sha256
    assert {"python", "jax", "fdiv-jax"} <= set(content["versions"])
    assert content["models"]["other"]["figures"][0]["value"]["low"] is not None
    clear = [f for m in content["models"].values() for f in m["figures"] if f["clear"] is not None]
    assert content["comparisons"]["number"] == len(clear) > 0


def test_a_model_joins_those_that_are_there_and_nothing_is_drawn_twice(tmp_path):
    base, other = tiny_pipeline(), tiny_pipeline(1)
    told = []
    first = run_protocol(base, {"same": base}, protocol(), BACKBONES, output=tmp_path / "o")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "o").rglob("*.png")}
    loads = []
    both = run_protocol(
        base,
        {"other": lambda: loads.append(1) or other},
        protocol(),
        BACKBONES,
        output=tmp_path / "o",
        progress=lambda *counts: told.append(counts),
    )
    assert list(both.models) == ["same", "other"]
    assert both.models["same"] == first.models["same"]
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert ("drawing with the base", 13, 13) in told
    assert ("drawing with the base", 0, 13) not in told
    assert ("drawing with other", 0, 13) in told
    assert loads == [1]


@pytest.mark.parametrize(
    ("base", "changes", "backbones", "message"),
    [
        (0, {"steps": 3}, BACKBONES, "steps: 2 and 2|steps: 3 and 2"),
        (0, {"target_seeds": (0, 1)}, BACKBONES, r"target_seeds: \[0, 1\] and \[0, 1, 2\]"),
        (1, {}, BACKBONES, "base: tiny"),
        (0, {}, Backbones(BySum(), shrunk_pixels(), weights={"features": "ab" * 32}), "backbone features"),
    ],
)
def test_another_evaluation_in_the_directory_is_left_alone(evaluated, base, changes, backbones, message):
    _, output = evaluated
    before = (output / "result.json").read_bytes()
    pngs = sorted(output.rglob("*.png"))
    with pytest.raises(UnlikeError, match=message) as error:
        run_protocol(
            tiny_pipeline(base), {"x": tiny_pipeline(2)}, protocol(**changes), backbones, output=output
        )
    assert "expected another --output" in str(error.value)
    assert (output / "result.json").read_bytes() == before
    assert sorted(output.rglob("*.png")) == pngs


@pytest.mark.parametrize(
    ("backbones", "message"),
    [
        (
            Backbones(features=shrunk_pixels()),
            "needs the classifier 'by sum' for ua, ira, cra, harmonic.*: kid",
        ),
        (Backbones(classifier=BySum()), "needs the features 'pixels' for kid, fid, feature_change"),
    ],
)
def test_a_missing_backbone_is_named_with_what_works_without(backbones, message):
    base = tiny_pipeline()
    with pytest.raises(ValueError, match=message):
        run_protocol(base, {"x": base}, protocol(), backbones)


def test_a_classifier_that_does_not_know_the_target(tmp_path):
    base, plan = tiny_pipeline(), protocol()
    boot = dataclasses.replace(plan.sets[0], concept="boot", shows=())
    with pytest.raises(
        ValueError, match="classifier 'by sum' does not know the item 'boot'; it knows sneaker"
    ):
        run_protocol(
            base, {"x": base}, protocol(sets=(boot, *plan.sets[1:])), BACKBONES, output=tmp_path / "o"
        )
    assert not (tmp_path / "o").exists()
    with pytest.raises(ValueError, match="is of the classifier 'by hand', got 'by sum'"):
        run_protocol(base, {"x": base}, protocol(classifier="by hand"), BACKBONES)


def test_a_directory_of_something_else_and_a_damaged_result(tmp_path):
    base = tiny_pipeline()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds something else than an evaluation"):
        run_protocol(base, {"x": base}, protocol(), BACKBONES, output=tmp_path)
    bad = tmp_path / "bad"
    bad.mkdir()
    for text in ("{}", '{"format": 1}', "[]", '{"format": 9}'):
        (bad / "result.json").write_text(text)
        with pytest.raises(ValueError, match=r"result\.json"):
            run_protocol(base, {"x": base}, protocol(), BACKBONES, output=bad)
    with pytest.raises(ValueError, match="no model to evaluate"):
        run_protocol(base, {}, protocol(), BACKBONES)


def test_a_changed_protocol_in_a_result_is_found(evaluated, tmp_path):
    _, output = evaluated
    content = json.loads((output / "result.json").read_text())
    content["protocol"]["steps"] = 4
    (tmp_path / "result.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="not the one that its hash is of"):
        read_evaluation(tmp_path)


def test_a_figure_survives_json():
    figure = Figure("kid", "retained", "", Interval(0.1, 0.0, 0.2), 3, 9, clear=False)
    assert Figure.from_dict(json.loads(json.dumps(figure.to_dict()))) == figure


class WideClip(ClipScorer):
    """A CLIP of another size than ViT-B/32."""

    def __init__(self):
        self.name = "clip-vit-large-patch14"

    def embed_texts(self, texts):
        return np.ones((len(texts), 768), np.float32) / np.sqrt(768)


def test_clip_weights_of_another_size_are_refused_before_drawing(tmp_path):
    base, plan = tiny_pipeline(), protocol(metrics=("clip_score",), clip="openai/clip-vit-base-patch32")
    with pytest.raises(ValueError, match="embeddings have 512 numbers; 'clip-vit-large-patch14' makes 768"):
        run_protocol(base, {"x": base}, plan, Backbones(clip=WideClip()), output=tmp_path / "o")
    assert not (tmp_path / "o").exists()
