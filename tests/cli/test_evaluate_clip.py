"""The evaluate command under the published protocols, with CLIP and Inception-v3 from files."""

import hashlib
import json

import numpy as np
import pytest

from fdiv_jax import cli
from fdiv_jax.evaluation import ClipScorer, ImageStore
from fdiv_jax.unlearning import UnlearningConfig
from tests.evaluation.backbones import save_clip, save_inception
from tests.tiny import tiny_pipeline

QUICK = "steps: 2\nseeds: {target: [0, 1], anchor: [0, 1, 2], retained: [0, 1, 2]}\n"
TARGET = ("a sneaker, photo style", "a sneaker, sketch style")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base and its copy, a run that unlearned "sneaker" towards "sandal", and a CLIP."""
    place = tmp_path_factory.mktemp("published")
    for name in ("base", "copy"):
        tiny_pipeline().save(place / name)
    tiny_pipeline(1).save(place / "run" / "pipeline")
    config = UnlearningConfig(target="sneaker", anchor="near").to_dict()
    (place / "run" / "config.json").write_text(json.dumps({"config": config, "resolved": {}, "model": {}}))
    save_clip(place / "clip")
    return place


def evaluated(place, text, output, models, *words):
    """What the command writes for those models."""
    (place / "own.yaml").write_text(text)
    places = (str(place / name) for name in ("base", *models))
    options = ("--protocol", str(place / "own.yaml"), "--clip", str(place / "clip"), *words)
    assert cli.main(["evaluate", *places, *options, "--output", str(place / output)]) == 0
    return json.loads((place / output / "result.json").read_text())


def figures(model):
    return {(each["metric"], each["role"]): each for each in model["figures"] if not each["concept"]}


@pytest.mark.slow
def test_clip_of_a_published_protocol(place):
    """The scores of the kept images by the scorer itself; the base as its own unlearned model is at 0."""
    metrics = "metrics: [clip_score, clip_accuracy, cmmd]\n"
    content = evaluated(place, f"like: ca-2023\n{QUICK}{metrics}", "clip-alone", ("run", "copy"))
    protocol = content["protocol"]
    assert [protocol[name] for name in ("sampler", "eta", "guidance", "steps")] == ["ddim", 1.0, 6.0, 2]
    digest = hashlib.sha256((place / "clip" / "model.safetensors").read_bytes()).hexdigest()
    assert content["backbones"] == {"clip": f"clip (sha256 {digest[:16]})"}

    scorer, store = ClipScorer.load(place / "clip"), ImageStore(place / "clip-alone" / "images")
    for model in (content["models"]["run"], content["base"]):
        images = np.concatenate([store.read(model["folder"], prompt, (0, 1)) for prompt in TARGET])
        found = figures(model)
        score = scorer.score(images, "A photo depicts sneaker").mean()
        right = scorer.prefers(images, "A photo depicts sneaker", "A photo depicts sandal").mean()
        assert score > 0
        assert found["clip_score", "target"]["value"]["value"] == pytest.approx(score, abs=1e-5)
        assert found["clip_accuracy", "target"]["value"]["value"] == right
    same = figures(content["models"]["copy"])
    assert {metric for metric, _ in same} == {"clip_score", "clip_accuracy", "cmmd"}
    for each in same.values():
        assert (each["difference"] or each["value"])["value"] == 0
    assert figures(content["models"]["run"])["cmmd", "retained"]["value"]["value"] > 0


@pytest.mark.slow
def test_a_published_protocol_with_all_its_metrics(place):
    """CLIP and KID on Inception-v3 with random weights."""
    weights = place / "inception.safetensors"
    save_inception(weights)
    content = evaluated(place, f"like: fdmu-repo\n{QUICK}", "all", ("run",), "--inception", str(weights))
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert content["backbones"]["features"] == f"inception-v3 (clean-fid) (sha256 {digest[:16]})"
    assert content["protocol"]["metrics"] == ["clip_score", "clip_accuracy", "kid"]
    run = figures(content["models"]["run"])
    for role in ("target", "anchor", "retained"):
        kid = run["kid", role]["value"]
        assert kid["low"] < kid["value"] < kid["high"]
        assert run["clip_score", role]["base"] > 0
