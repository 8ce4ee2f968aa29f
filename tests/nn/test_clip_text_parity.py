"""The text towers against transformers' on random configurations, through files in both directions."""

import numpy as np
import pytest

from fdiv_jax.checkpoints import load_component, save_component
from fdiv_jax.nn import CLIPTextModel, CLIPTextModelWithProjection
from tests.nn.helpers import TOLERANCE, assert_same_tensors, call, randomised, relative_error

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.interop

BASE = {"vocab_size": 60, "bos_token_id": 58, "eos_token_id": 59, "pad_token_id": 59}
CONFIGS = {
    "clip-l-in-small": BASE
    | {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4},
    "openclip-in-small": BASE
    | {
        "hidden_size": 16,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "hidden_act": "gelu",
        "pad_token_id": 0,
    },
    "one-head": BASE
    | {
        "hidden_size": 10,
        "intermediate_size": 15,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "max_position_embeddings": 9,
    },
    "legacy-eos": BASE
    | {
        "hidden_size": 12,
        "intermediate_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "eos_token_id": 2,
        "max_position_embeddings": 16,
    },
    "large-epsilon": BASE
    | {
        "hidden_size": 32,
        "intermediate_size": 8,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "layer_norm_eps": 1e-2,
        "hidden_act": "gelu_pytorch_tanh",
    },
}


def make(name, class_name="CLIPTextModel"):
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(**CONFIGS[name])
    return randomised(getattr(transformers, class_name)(config), seed=len(name))


def prompts(config, length, seed=0):
    """Token ids as a tokenizer gives them: begin, words, end, padding."""
    random = np.random.default_rng(seed)
    tokens = random.integers(3, 57, (3, length))
    tokens[:, 0] = 58
    for row, end in enumerate((2, length // 2, length - 1)):
        tokens[row, end] = 59
        tokens[row, end + 1 :] = config["pad_token_id"]
    return tokens


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "large-epsilon")) for n in CONFIGS]
)
def test_it_is_theirs(name, tmp_path):
    theirs = make(name)
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = load_component(tmp_path / "theirs", CLIPTextModel)
    longest = theirs.config.max_position_embeddings
    for length in (longest, 5):
        tokens = prompts(CONFIGS[name], length)
        with torch.no_grad():
            expected = theirs(torch.tensor(tokens)).last_hidden_state
        assert relative_error(call(loaded.model.__call__, tokens), expected.numpy()) <= TOLERANCE

    save_component(tmp_path / "ours", loaded.model, stored_dtypes=loaded.stored_dtypes)
    again, report = transformers.CLIPTextModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    assert_same_tensors(again.state_dict(), theirs.state_dict())
    for key in CONFIGS[name]:
        assert getattr(again.config, key) == getattr(theirs.config, key), key


@pytest.mark.parametrize("name", ["clip-l-in-small", "openclip-in-small", "legacy-eos"])
def test_every_layer_and_the_pooled_text_are_theirs(name, tmp_path):
    """With the end of text found by its id, or (legacy) as the greatest id; it comes twice in one prompt."""
    theirs = make(name, "CLIPTextModelWithProjection")
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = load_component(tmp_path / "theirs", CLIPTextModelWithProjection)
    tokens = prompts(CONFIGS[name], 9)
    tokens[1, -2] = 59
    features = call(loaded.model.features, tokens)
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens), output_hidden_states=True)
        unprojected = theirs.text_model(torch.tensor(tokens)).pooler_output
    assert len(features.hidden) == len(expected.hidden_states) == theirs.config.num_hidden_layers + 1
    for ours, other in zip(features.hidden, expected.hidden_states, strict=True):
        assert relative_error(ours, other.numpy()) <= TOLERANCE
    assert relative_error(features.last, expected.last_hidden_state.numpy()) <= TOLERANCE
    assert relative_error(features.pooled, expected.text_embeds.numpy()) <= TOLERANCE
    pooled = call(loaded.model.text_model.__call__, tokens).pooled
    assert relative_error(pooled, unprojected.numpy()) <= TOLERANCE

    save_component(tmp_path / "ours", loaded.model, stored_dtypes=loaded.stored_dtypes)
    again, report = transformers.CLIPTextModelWithProjection.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(report.values()), report
    assert_same_tensors(again.state_dict(), theirs.state_dict())
    assert again.config.architectures == ["CLIPTextModelWithProjection"]


@pytest.mark.parametrize("prefix", ["", "text_model."])
@pytest.mark.parametrize("buffer", [False, True])
def test_files_of_every_version_of_transformers(prefix, buffer, tmp_path):
    """Version 4 wrote names with a leading text_model., before 4.31 the position indices too; 5 neither."""
    from safetensors.numpy import load_file, save_file

    theirs = make("clip-l-in-small")
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = {prefix + name.removeprefix("text_model."): value for name, value in load_file(file).items()}
    if buffer:
        tensors[f"{prefix}embeddings.position_ids"] = np.arange(77)[None]
    save_file(tensors, file)
    loaded = load_component(tmp_path, CLIPTextModel)
    tokens = prompts(CONFIGS["clip-l-in-small"], 20)
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).last_hidden_state
    assert relative_error(call(loaded.model.__call__, tokens), expected.numpy()) <= TOLERANCE
    assert set(loaded.stored_dtypes.values()) == {"float32"}
    assert len(loaded.stored_dtypes) == len(tensors) - buffer
