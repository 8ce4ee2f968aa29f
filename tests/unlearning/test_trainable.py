"""What learns besides the weights themselves: low-rank changes, embeddings of tokens, groups by pattern."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdiv_jax.checkpoints import load_lora
from fdiv_jax.pipeline import load_pipeline
from fdiv_jax.unlearning import (
    AnchorImagesConfig,
    LoraConfig,
    Network,
    OptimiserConfig,
    UnlearningConfig,
    initial_state,
    make_step,
    prepare,
    select,
    trainable_of,
    unlearn,
)
from fdiv_jax.unlearning.cache import ArrayCache
from fdiv_jax.unlearning.data import prepare_data
from fdiv_jax.unlearning.presets import METHODS
from fdiv_jax.unlearning.step import make_reference
from fdiv_jax.unlearning.timesteps import draw_noise
from tests.tiny import tiny_pipeline

IMAGES = AnchorImagesConfig(number=4, steps=2)


def settings(**changes):
    common = {"steps": 6, "batch_size": 4, "learning_rate": 2e-2, "retained": (), "images": IMAGES}
    return UnlearningConfig(**{"target": "sneaker", **common, **changes})


def changed_names(before, after):
    before, after = (Network.parameters(module) for module in (before, after))
    assert before.keys() == after.keys()
    return {name for name in before if not np.array_equal(before[name], after[name])}


@pytest.fixture(scope="module")
def lora(pipe, tmp_path_factory):
    """A run that learned a LoRA, and its directory."""
    output = tmp_path_factory.mktemp("lora") / "run"
    config = settings(lora=LoraConfig(rank=3, alpha=1.5))
    return unlearn(pipe, config, output, progress=False, cache=False), output


@pytest.mark.slow
def test_the_model_is_the_frozen_one_with_the_lora_of_the_file(lora, pipe):
    """W + (alpha / rank) down up, multiplied out here, of what lora.safetensors holds."""
    result, output = lora
    found = load_lora(output / "lora.safetensors", {"unet": pipe.unet})["unet"]
    loaded = Network.parameters(load_pipeline(output / "pipeline").unet)
    given = Network.parameters(result.pipeline.unet)
    frozen = Network.parameters(pipe.unet)
    names = {name for name in frozen if ".attn2.to_k." in name or ".attn2.to_v." in name}
    assert {f"{target}.kernel" for target in found.targets} == names
    assert changed_names(pipe.unet, result.pipeline.unet) == names
    for target in found.targets:
        down, up = (np.asarray(factor, np.float64) for factor in found.pair(target))
        assert down.shape[1] == up.shape[0] == 3
        assert found.alpha[target] == 1.5
        expected = np.asarray(frozen[f"{target}.kernel"], np.float64) + 0.5 * down @ up
        np.testing.assert_allclose(given[f"{target}.kernel"], expected, atol=1e-6)
        np.testing.assert_array_equal(loaded[f"{target}.kernel"], given[f"{target}.kernel"])
        change = np.asarray(given[f"{target}.kernel"], np.float64) - np.asarray(frozen[f"{target}.kernel"])
        values = np.linalg.svd(change, compute_uv=False)
        assert values[2] > 1e-6
        assert values[3] < 1e-6


@pytest.mark.slow
def test_it_is_the_factors_that_learn(lora):
    result, _ = lora
    assert {name.rsplit(".", 2)[-2] for name in result.learned} == {"lora_down", "lora_up"}
    assert result.selection.count == sum(value.size for value in result.learned.values())
    assert set(result.selection.names) == set(result.learned)
    assert np.all(result.history["gradient_norm"] > 0)
    assert result.history["m"][-1] < result.history["m"][0]


def test_a_low_rank_model_begins_as_the_frozen_one(pipe):
    trainable, frozen, selection = trainable_of(pipe, "attn", rank=2)
    trained = trainable.initial(frozen, jax.random.key(3))
    for name, value in trainable.parameters(trained, frozen).items():
        np.testing.assert_array_equal(value, frozen.unet[name])
    kernels = [name for name in select(frozen.unet, "attn").names if name.endswith(".kernel")]
    assert len(selection.names) == 2 * len(kernels)
    assert trainable.alpha == 2.0
    ups = {name: value for name, value in trained.items() if ".lora_up." in name}
    doubled = {**trained, **{name: jnp.ones_like(value) for name, value in ups.items()}}
    once = trainable.parameters(doubled, frozen)
    again = trainable_of(pipe, "attn", rank=2, alpha=6.0)[0].parameters(doubled, frozen)
    for name in kernels:
        three = np.asarray(again[name], np.float64) - frozen.unet[name]
        one = np.asarray(once[name], np.float64) - frozen.unet[name]
        np.testing.assert_allclose(three, 3 * one, atol=1e-5)


@pytest.mark.parametrize(
    ("group", "rank", "message"),
    [
        ("embedding", 2, "a LoRA changes kernels alone"),
        (r"norm2\.bias", 2, "none of its parameters is a kernel"),
        ("cross-attn", 9, "rank 9 for .*expected 1 to 8"),
    ],
)
def test_a_lora_that_cannot_be(group, rank, message, pipe):
    with pytest.raises(ValueError, match=message):
        trainable_of(pipe, group, ["sneaker"], rank=rank)


def test_a_name_without_tokens(pipe):
    with pytest.raises(ValueError, match=r"no tokens in the target's name \[' '\]"):
        trainable_of(pipe, "embedding", [" "])


ENCODERS = {"sd1": ["text_encoder"], "sdxl": ["text_encoder", "text_encoder_2"]}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_only_the_targets_rows_of_the_embedding_tables_change(family, pipe, tmp_path):
    pipe = pipe if family == "sd1" else tiny_pipeline(2, family="sdxl")
    result = unlearn(pipe, settings(trainable="embedding"), tmp_path / "run", progress=False, cache=False)
    loaded = load_pipeline(tmp_path / "run" / "pipeline")
    letters = set(pipe.tokenizer("sneaker", add_special_tokens=False)["input_ids"])
    assert len(letters) == 6  # s n e a k, and r at the end of a word
    for name in pipe.components:
        before, after, stored = (getattr(each, name) for each in (pipe, result.pipeline, loaded))
        changed = changed_names(before, after)
        assert not changed_names(after, stored)
        if name not in ENCODERS[family]:
            assert not changed, name
            continue
        (table,) = changed
        assert table.endswith("token_embedding.embedding")
        rows = np.any(
            np.asarray(Network.parameters(before)[table]) != Network.parameters(after)[table], axis=1
        )
        assert set(np.flatnonzero(rows).tolist()) == letters
        assert set(result.selection.names) >= {f"{name}.token_embedding.embedding"}
    assert np.all(result.history["gradient_norm"] > 0)  # of the batch's own loss: the next test


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_the_gradient_of_an_embedding(family, pipe):
    """A step of plain gradient descent against differences of the loss of models with shifted tables."""
    pipe = pipe if family == "sd1" else tiny_pipeline(2, family="sdxl")
    rate = 0.5
    config = settings(trainable="embedding", optimiser=OptimiserConfig("sgd"), learning_rate=rate)
    prepared = prepare(pipe, config)
    plan, frozen, key = prepared.plan, prepared.frozen, jax.random.key(5)
    data = prepare_data(pipe, prepared.pairs, IMAGES, ArrayCache(None), tokens=True)
    batch = data.batch(0, 0, 4)
    state = initial_state(plan, frozen, rate, jax.random.key(1))
    reference = jax.jit(make_reference(plan))(frozen, batch, key)
    after, metrics = jax.jit(make_step(plan))(state, frozen, batch, reference, key)
    t, noise = draw_noise(key, batch.position, pipe.latent_shape, plan.timesteps)
    x_t = pipe.schedule.add_noise(batch.latents, noise, t)
    prompts = [prepared.pairs[i].target for i in data.choose(0, 0, 4)[0]]

    def loss(trained):
        """2 (1 - exp(-m / 8)), from the text to the distance by the pipeline's own methods."""
        model = plan.trainable.pipeline(pipe, trained, frozen)
        output = model.denoise(x_t, t, model.sized(model.encode_prompts(prompts), x_t.shape))
        error = np.sum((np.asarray(output, np.float64) - np.asarray(reference)) ** 2, -1)
        return np.mean(2 * (1 - np.exp(-error.mean((1, 2)) / 8)))

    np.testing.assert_allclose(metrics["loss"], loss(state.trained), rtol=1e-4)
    rng = np.random.default_rng(0)
    assert set(state.trained) == set(ENCODERS[family])
    for name, value in state.trained.items():
        gradient = (np.asarray(value, np.float64) - after.trained[name]) / rate
        ascent = np.asarray(gradient) / np.linalg.norm(gradient)
        for direction in (ascent, rng.standard_normal(value.shape) / np.sqrt(value.size)):
            h = 0.02
            shifted = [
                loss({**state.trained, name: jnp.asarray(value + sign * h * direction, jnp.float32)})
                for sign in (1, -1)
            ]
            slope = (shifted[0] - shifted[1]) / (2 * h)
            scale = np.linalg.norm(gradient)
            np.testing.assert_allclose(np.vdot(gradient, direction), slope, atol=0.02 * scale)


@pytest.mark.slow
def test_everything_but_the_cross_attentions(pipe):
    """The regular expression of ESD-u."""
    config = settings(trainable=METHODS["esd-u"]("sneaker").trainable)
    result = unlearn(pipe, config, progress=False, cache=False)
    others = {name for name in Network.parameters(pipe.unet) if ".attn2." not in name}
    assert set(result.selection.names) == others
    still = others - changed_names(pipe.unet, result.pipeline.unet)
    assert changed_names(pipe.unet, result.pipeline.unet) <= others
    assert all(name.endswith("to_k.bias") for name in still)  # a shift of all keys changes no attention


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{}, {"lora": LoraConfig(rank=2)}, {"trainable": "embedding"}],
    ids=["weights", "lora", "embedding"],
)
def test_small_steps_of_a_model_in_half_precision_add_up(changes, pipe, tmp_path):
    """What learns is kept in float32; one step of 1e-5 changes hardly a number of bfloat16."""
    half = load_pipeline(pipe.save(tmp_path / "model"), param_dtype=jnp.bfloat16)
    result = unlearn(half, settings(learning_rate=1e-5, **changes), progress=False, cache=False)
    prepared = prepare(half, settings(**changes))
    before = prepared.plan.trainable.initial(prepared.frozen, jax.random.key(0))
    for name, value in result.learned.items():
        assert value.dtype == np.float32
        if "lora_down" not in name:  # those begin at random numbers
            moved = np.abs(value - np.asarray(before[name]))
            assert 1e-6 < np.median(moved) < 1e-4
    for module in result.pipeline.components.values():
        assert {value.dtype for value in Network.parameters(module).values()} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("target", ["sneaker", "a sneaker", "Sneaker"])
def test_the_name_as_the_prompts_have_it_gives_the_tokens(target, pipe):
    """By its phrase, the article in it does not learn."""
    prepared = prepare(pipe, settings(target=target, trainable="embedding"))
    name = pipe.tokenizer("sneaker", add_special_tokens=False)["input_ids"]
    assert prepared.plan.trainable.ids == (tuple(sorted(set(name))),)


def test_another_name_of_a_concept_gives_the_tokens_of_its_prompts(pipe):
    """ "VanGogh" is found in the library, but does not stand in the prompt."""
    bare = pipe.replace(concepts={})
    prepared = prepare(
        bare, settings(target="VanGogh", trainable="embedding", prompts=("in the van gogh way",))
    )
    words = pipe.tokenizer("van gogh", add_special_tokens=False)["input_ids"]
    assert prepared.plan.trainable.ids == (tuple(sorted(set(words))),)
