"""Small files of the networks that metrics look through, with random weights."""

import json

import numpy as np
from safetensors.numpy import save_file

from fdiv_jax.checkpoints.state_dicts import state_dict
from fdiv_jax.nn import CLIPModel, InceptionV3, abstract_module, abstract_network
from tests.tiny import fill, tiny_tokenizer


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


def save_inception(path):
    """An Inception-v3 of the published size."""
    network = fill(abstract_module(lambda rngs: InceptionV3(rngs=rngs)), np.random.default_rng(6))
    tensors = {
        name: np.abs(each) if "running_var" in name else each for name, each in state_dict(network).items()
    }
    save_file(tensors, path)
