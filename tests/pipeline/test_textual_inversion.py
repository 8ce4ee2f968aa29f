"""Textual-inversion tokens of several vectors, as diffusers adds them and its pipelines read them."""

import json

import numpy as np
import pytest

import fdiv_jax as fj
from fdiv_jax.pipeline.tokens import token_ids, warn_of_cuts, with_all_vectors
from fdiv_jax.unlearning import UnlearningConfig
from fdiv_jax.unlearning.prepare import prepare
from tests.tiny import tiny_tokenizer

PROMPTS = [
    "<cat-toy>, b",
    "a <cat-toy> and <cat-toy>_1",
    "<cat-toy><cat-toy> <one>",
    "<CAT-TOY>",
    "<x>_1 <x>",
]


@pytest.fixture(scope="module", params=["sd1", pytest.param("sdxl", marks=pytest.mark.slow)])
def saved(request, tmp_path_factory):
    """A pipeline of diffusers with learned tokens, and where it is saved; XL's second tower knows others."""
    torch = pytest.importorskip("torch")
    from tests.checkpoints.torch_pipelines import torch_pipeline

    pipe = torch_pipeline(request.param)
    pipe.set_progress_bar_config(disable=True)
    torch.manual_seed(0)
    for token, vectors in (("<cat-toy>", 3), ("<one>", 1), ("<x>", 2)):
        pipe.load_textual_inversion({token: 3 * torch.randn(vectors, 12)})
    if request.param == "sdxl":
        towers = {"tokenizer": pipe.tokenizer_2, "text_encoder": pipe.text_encoder_2}
        pipe.load_textual_inversion({"<cat-toy>": 3 * torch.randn(2, 8)}, **towers)
    directory = tmp_path_factory.mktemp(request.param) / "model"
    pipe.save_pretrained(str(directory))
    return pipe, directory


@pytest.mark.interop
def test_every_vector_is_read_as_in_diffusers(saved, tmp_path):
    theirs, directory = saved
    pipe = fj.load_pipeline(directory)
    for ours, other in ((pipe.tokenizer, "tokenizer"), (pipe.tokenizer_2, "tokenizer_2")):
        if ours is not None:
            expected = theirs.maybe_convert_prompt(PROMPTS, getattr(theirs, other))
            assert with_all_vectors(PROMPTS, ours) == expected
    again = fj.load_pipeline(pipe.save(tmp_path / "again"))
    hidden = theirs.encode_prompt(
        prompt=PROMPTS, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )[0]
    hidden = hidden.detach().numpy()
    for model in (pipe, again):
        text = model.encode_prompts(PROMPTS)
        np.testing.assert_allclose(getattr(text, "hidden", text), hidden, atol=1e-5 * np.abs(hidden).max())


@pytest.mark.slow
@pytest.mark.interop
def test_diffusers_draws_the_same(saved):
    import torch

    theirs, directory = saved
    pipe = fj.load_pipeline(directory)
    noise = np.random.default_rng(1).standard_normal((2, *pipe.latent_shape)).astype(np.float32)
    prompts, negative = ["<cat-toy>", "a <cat-toy> b"], "<x> c"
    expected = theirs(
        prompts,
        negative_prompt=[negative] * 2,
        latents=torch.tensor(noise.transpose(0, 3, 1, 2)),
        num_inference_steps=3,
        guidance_scale=4.0,
        output_type="np",
    ).images
    found = pipe(prompts, steps=3, guidance=4.0, initial=noise, negative_prompt=negative)
    assert np.abs(found / 255.0 - expected).max() <= 1.5 / 255
    single = pipe(["<one>", "a <one> b"], steps=3, guidance=4.0, initial=noise, negative_prompt=negative)
    assert np.abs(found / 255.0 - single / 255.0).max() > 3 / 255


@pytest.mark.interop
def test_all_vectors_of_a_target_learn(saved):
    _, directory = saved
    pipe = fj.load_pipeline(directory)
    config = UnlearningConfig(
        target="<cat-toy>",
        anchor="a toy",
        prompts=("a <cat-toy> here",),
        trainable="embedding",
    )
    ids = prepare(pipe, config).plan.trainable.ids
    names = ("tokenizer",) if pipe.tokenizer_2 is None else ("tokenizer", "tokenizer_2")
    files = [json.loads((directory / name / "tokenizer.json").read_text()) for name in names]
    added = [content["added_tokens"] for content in files]
    for own, entries in zip(ids, added, strict=True):
        vectors = {entry["id"] for entry in entries if entry["content"].startswith("<cat-toy>")}
        assert len(vectors) in (2, 3)
        assert set(own) == vectors


def test_what_is_cut_is_told_with_all_vectors():
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<t>", *(f"<t>_{i}" for i in range(1, 30))])
    assert len(token_ids(tokenizer, ["<t>"], ends=False)[0]) == 30
    with pytest.warns(UserWarning, match="cut to 24 tokens.*loses '<t>_22"):
        warn_of_cuts([tokenizer], ["<t>"], 24)


def test_without_such_tokens_prompts_stay():
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<t>", "<t>_2", "cat"])  # no first of the others
    assert with_all_vectors(["<t> cat <t>_2 "], tokenizer) == ["<t> cat <t>_2 "]
