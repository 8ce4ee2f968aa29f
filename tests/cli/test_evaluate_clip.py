"""The evaluate command under the published protocols, with CLIP and Inception-v3 from files."""

import hashlib
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from fdiv_jax import cli
from fdiv_jax.checkpoints.state_dicts import state_dict
from fdiv_jax.evaluation import ClipScorer, ImageStore
from fdiv_jax.nn import CLIPModel, InceptionV3, abstract_module, abstract_network
from fdiv_jax.unlearning import UnlearningConfig
from tests.tiny import fill, tiny_pipeline, tiny_tokenizer

QUICK = "steps: 2\nseeds: {target: [0, 1], anchor: [0, 1, 2], retained: [0, 1, 2]}\n"
TARGET = ("a sneaker, photo style", "a sneaker, sketch style")


def save_clip(place):
    """A CLIP as wide as ViT-B/32's embeddings and small otherwise, as transformers writes it."""
    tokenizer = tiny_tokenizer()
    size = len(tokenizer)
    tower = {"intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 8}
    ids = {"bos_token_id": size - 2, "eos_token_id": size - 1, "pad_token_id": size - 1}
    config = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": 512,
        "text_config": {**tower, **ids, "vocab_size": size, "max_position_embeddings": 24},
        "vision_config": {**tower, "image_size": 16, "patch_size": 8},
    }
    place.mkdir()
    (place / "config.json").write_text(json.dumps(config))
    network = fill(abstract_network(CLIPModel, config), np.random.default_rng(5))
    tensors = state_dict(network)
    tensors["visual_projection.weight"] *= -1  # with these weights cosines are above 0, so that scores are
    save_file(tensors, place / "model.safetensors")
    tokenizer.save_pretrained(place)
    preparing = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}, "resample": 3}
    (place / "preprocessor_config.json").write_text(json.dumps(preparing))


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
    network = fill(abstract_module(lambda rngs: InceptionV3(rngs=rngs)), np.random.default_rng(6))
    tensors = {
        name: np.abs(each) if "running_var" in name else each for name, each in state_dict(network).items()
    }
    weights = place / "inception.safetensors"
    save_file(tensors, weights)
    content = evaluated(place, f"like: fdmu-repo\n{QUICK}", "all", ("run",), "--inception", str(weights))
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert content["backbones"]["features"] == f"inception-v3 (clean-fid) (sha256 {digest[:16]})"
    assert content["protocol"]["metrics"] == ["clip_score", "clip_accuracy", "kid"]
    run = figures(content["models"]["run"])
    for role in ("target", "anchor", "retained"):
        kid = run["kid", role]["value"]
        assert kid["low"] < kid["value"] < kid["high"]
        assert run["clip_score", role]["base"] > 0
