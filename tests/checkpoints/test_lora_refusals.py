"""What is no LoRA for the model is refused for what it is."""

import json
import pickle
import zipfile

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fdiv_jax.checkpoints import load_lora, save_delta, save_lora, save_single_file
from fdiv_jax.nn.lora import Lora
from tests.checkpoints.test_lora_files import drawn_lora
from tests.tiny import tiny_pipeline

ONE = np.ones((2, 8), np.float32)
KOHYA = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
DOTTED = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
# Tensors' names as LyCORIS, PEFT, kohya's scripts and diffusers write them.
OTHER_KINDS = {
    "a LoHa (hada)": [f"{KOHYA}.hada_w1_a", f"{KOHYA}.hada_w2_b", f"{KOHYA}.alpha"],
    "a LoKr (lokr)": [f"{KOHYA}.lokr_w1", f"{KOHYA}.lokr_w2_a", f"{KOHYA}.alpha"],
    "a LoRA with a Tucker core (lora_mid)": [
        f"{KOHYA}.lora_down.weight",
        f"{KOHYA}.lora_mid.weight",
        f"{KOHYA}.lora_up.weight",
    ],
    "an OFT (oft_blocks)": [f"{KOHYA}.oft_blocks", f"{KOHYA}.alpha"],
    "an (IA)^3 (on_input)": [f"{KOHYA}.weight", f"{KOHYA}.on_input"],
    "a GLoRA (a1, b1)": [f"{KOHYA}.a1.weight", f"{KOHYA}.b2.weight"],
    "an AdaLoRA (lora_E)": [f"base_model.model.{DOTTED}.lora_A", f"base_model.model.{DOTTED}.lora_E"],
    "whole differences of weights (diff)": [f"{KOHYA}.diff", f"{KOHYA}.diff_b"],
    "changes of norms (w_norm)": [
        "lora_unet_mid_block_resnets_0_norm1.w_norm",
        "lora_unet_mid_block_resnets_0_norm1.b_norm",
    ],
    "a LoRA of an embedding table": ["base_model.model.token_embedding.lora_embedding_A"],
    "a LoRA with biases": [f"unet.{DOTTED}.lora_A.weight", f"unet.{DOTTED}.lora_B.bias"],
    "a LoRA with textual-inversion embeddings": [f"{KOHYA}.alpha", "bundle_emb.cat.string_to_param.*"],
    "a textual-inversion embedding": ["emb_params"],
    "Custom Diffusion's attention weights": ["unet.x.attn2.processor.to_k_custom_diffusion.weight"],
    "a ControlNet": ["lora_controlnet", "input_blocks.1.1.proj_in.up"],
    "an IP-Adapter": ["ip_adapter.1.to_k_ip.weight"],
    "a LoRA of a diffusion transformer": ["transformer.transformer_blocks.0.attn.to_q.lora_A.weight"],
    "a whole checkpoint": ["model.diffusion_model.out.2.bias"],
    "the weights of a whole model": [f"{DOTTED}.weight"],
}


@pytest.fixture(scope="module")
def modules():
    return tiny_pipeline().components


@pytest.fixture(scope="module")
def xl():
    return tiny_pipeline(family="sdxl").components


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_another_kind_of_file_is_named(kind, modules, tmp_path):
    path = tmp_path / "other.safetensors"
    save_file(dict.fromkeys(OTHER_KINDS[kind], ONE), path)
    with pytest.raises(NotImplementedError) as told:
        load_lora(path, modules)
    assert f"{path} is {kind}" in str(told.value)
    assert "supported: LoRA and DoRA" in str(told.value)


@pytest.mark.parametrize(
    "name",
    [
        "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight",
        "lora_te3_encoder_block_0_layer_0_SelfAttention_q.lora_down.weight",
        "diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight",
        "base_model.model.single_transformer_blocks.0.attn.to_q.lora_A.weight",
    ],
)
def test_diffusion_transformers_by_other_names(name, modules, tmp_path):
    save_file({name: ONE}, tmp_path / "flux.safetensors")
    with pytest.raises(NotImplementedError, match=f"is a LoRA of a diffusion transformer, as {name} shows"):
        load_lora(tmp_path / "flux.safetensors", modules)


def test_our_own_other_files_are_named(modules, tmp_path):
    tuned = {**modules, "unet": tiny_pipeline(1).unet}
    delta = save_delta(tmp_path / "delta.safetensors", modules, tuned)
    with pytest.raises(NotImplementedError, match="is a delta, expected a LoRA; apply_delta reads it"):
        load_lora(delta, modules)
    whole = save_single_file(tmp_path / "whole.safetensors", modules)
    with pytest.raises(NotImplementedError, match="is a whole checkpoint"):
        load_lora(whole, modules)


def test_pickles_pointers_and_web_pages_are_not_called_truncated(modules, tmp_path):
    bare = tmp_path / "old.pt"
    bare.write_bytes(pickle.dumps({"unet": 1}, protocol=2))
    archive = tmp_path / "misnamed.safetensors"  # as PyTorch writes them since 2020
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({}))
    named = tmp_path / "pytorch_lora_weights.bin"
    named.write_bytes(b"what remains of it")
    for path in (bare, archive, named):
        with pytest.raises(ValueError, match=r"is pickled.*Reading a pickle runs any code") as told:
            load_lora(path, modules)
        assert "truncated" not in str(told.value)
    directory = tmp_path / "directory"
    directory.mkdir()
    with pytest.raises(FileNotFoundError, match="is a directory of 0 LoRA files"):
        load_lora(directory, modules)
    named.rename(directory / named.name)
    with pytest.raises(ValueError, match=r"directory/pytorch_lora_weights\.bin is pickled"):
        load_lora(directory, modules)
    for content, message in (
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"),
        (b"\n<!DOCTYPE html><html>", "is a web page"),
        (b"\x10\x00", "is truncated or not a safetensors file"),
    ):
        (tmp_path / "a.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load_lora(tmp_path / "a.safetensors", modules)


def test_one_file_of_a_directory_is_read_and_of_several_none(modules, tmp_path):
    lora = {"unet": drawn_lora(modules["unet"], 1, 1.0, containing=("attn1.to_q",))}
    save_lora(tmp_path / "one.safetensors", lora)
    assert load_lora(tmp_path, modules)["unet"].targets == lora["unet"].targets
    save_lora(tmp_path / "two.safetensors", lora)
    with pytest.raises(
        FileNotFoundError, match=r"2 LoRA files \(one.safetensors, two.safetensors\), expected one"
    ):
        load_lora(tmp_path, modules)
    save_lora(tmp_path / "pytorch_lora_weights.safetensors", lora)
    assert set(load_lora(tmp_path, modules)) == {"unet"}


@pytest.mark.parametrize("layout", [pytest.param("diffusers", marks=pytest.mark.slow), "kohya"])
def test_a_lora_of_another_family_is_told_by_its_family(layout, modules, xl, tmp_path):
    path = tmp_path / "xl.safetensors"

    def written(names, **parts):
        loras = {name: drawn_lora(xl[name], 1, 1.0, containing=names) for name in parts.get("of", ("unet",))}
        save_lora(path, loras, layout=layout, unet_config=xl["unet"].config, overwrite=True)

    written((".attn2.",))
    message = r"is for a UNet that attends to text of width 24, as .*attn2.*to_[kv].* shows; .* a width of 8"
    with pytest.raises(ValueError, match=message):
        load_lora(path, modules)
    written((".attn1.", ".q_proj"), of=("unet", "text_encoder_2"))
    message = "is for Stable Diffusion XL, the model is of the family Stable Diffusion 1.x"
    with pytest.raises(ValueError, match=message):
        load_lora(path, modules)
    save_file(
        {
            "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight": np.ones(
                (4, 2048)
            )
        },
        path,
    )
    with pytest.raises(ValueError, match=r"text of width 2048 \(Stable Diffusion XL\), as"):
        load_lora(path, modules)
    save_file({f"{KOHYA}.lora_down.weight": ONE}, path, metadata={"ss_base_model_version": "sd_v2_768_v"})
    with pytest.raises(ValueError, match=r"is for Stable Diffusion 2\.x, the model is"):
        load_lora(path, modules)


def test_what_peft_says_is_checked(modules, tmp_path):
    path = save_lora(
        tmp_path / "a.safetensors", {"unet": drawn_lora(modules["unet"], 2, 2.0, containing=("attn2.to_k",))}
    )
    tensors = load_file(path)

    def header(**values):
        values = {f"unet.{key}": value for key, value in values.items()}
        save_file(tensors, path, metadata={"lora_adapter_metadata": json.dumps(values)})

    header(lora_alpha=1, alpha_pattern={r".*attn2\.to_k": 6})
    assert set(load_lora(path, modules)["unet"].alpha.values()) == {6.0}
    for wrong, error, message in (
        ({"lora_alpha": "2"}, ValueError, "alpha '2' of unet .*, expected a number"),
        ({"lora_alpha": float("nan")}, ValueError, "NaN, expected a finite number"),
        ({"lora_alpha": True}, ValueError, "alpha True of unet"),
        ({"alpha_pattern": [1]}, ValueError, r"alpha_pattern is \[1\], expected an object"),
        ({"alpha_pattern": {"(a+)+$": 1}}, NotImplementedError, r"alpha_pattern '\(a\+\)\+\$'; supported"),
        ({"alpha_pattern": {".*" * 9: 1}}, NotImplementedError, "at most 3 repetitions"),
        ({"alpha_pattern": {"+": 1}}, ValueError, r"alpha_pattern '\+'"),
    ):
        header(**wrong)
        with pytest.raises(error, match=message):
            load_lora(path, modules)
    for text, message in (("[1]", "is list, expected an object"), ("{", "JSON"), ("[" * 9999, "deep")):
        save_file(tensors, path, metadata={"lora_adapter_metadata": text})
        with pytest.raises(ValueError, match=message):
            load_lora(path, modules)


def test_a_layer_of_two_text_encoders_needs_the_component(xl, tmp_path):
    name = "text_model.encoder.layers.0.self_attn.q_proj"
    save_file({f"base_model.model.{name}.lora_A.weight": ONE}, tmp_path / "a.safetensors")
    with pytest.raises(
        ValueError, match="is a layer of text_encoder and of text_encoder_2; expected the comp"
    ):
        load_lora(tmp_path / "a.safetensors", xl)


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_magnitudes_leave_and_come_back(layout, modules, tmp_path):
    plain = drawn_lora(modules["unet"], 2, 3.0, containing=("attn2.to_k", ".conv1", "conv_shortcut"))
    rng = np.random.default_rng(0)
    sizes = {target: plain.pair(target)[1].shape[-1:] for target in plain.targets}
    magnitudes = {t: rng.uniform(1, 2, size).astype(np.float32) for t, size in sizes.items()}
    lora = Lora(plain.factors, plain.alpha, magnitudes)
    options = {"layout": layout, "unet_config": modules["unet"].config}
    path = save_lora(tmp_path / "dora.safetensors", {"unet": lora}, **options)
    back = load_lora(path, modules)["unet"]
    assert back.alpha == lora.alpha
    assert back.magnitudes.keys() == magnitudes.keys()
    assert all(np.array_equal(back.magnitudes[t], value) for t, value in magnitudes.items())

    each_input = {
        t: rng.uniform(1, 2, (plain.pair(t)[0].shape[-2], 1)).astype(np.float32) for t in magnitudes
    }
    lora = Lora(plain.factors, plain.alpha, each_input)
    if layout == "diffusers":
        with pytest.raises(
            NotImplementedError, match="magnitudes for each input; the layout 'diffusers' holds"
        ):
            save_lora(tmp_path / "b.safetensors", {"unet": lora}, **options)
        return
    back = load_lora(save_lora(tmp_path / "b.safetensors", {"unet": lora}, **options), modules)["unet"]
    assert all(np.array_equal(back.magnitudes[t], value) for t, value in each_input.items())
