"""One file and nothing beside it: its names and shapes say what it is, and diffusers reads the same."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from fdiv_jax import load_pipeline
from fdiv_jax.checkpoints import state_dict
from fdiv_jax.checkpoints.original_shapes import unet_settings
from fdiv_jax.cli import main
from fdiv_jax.nn import UNetConfig
from fdiv_jax.pipeline.one_file import describe_file
from tests.checkpoints.torch_pipelines import DISTILLED
from tests.pipeline.original_files import (
    FAMILIES,
    FURTHER,
    config_directory,
    original_shapes,
    tiny_configs,
    tiny_tensors,
    with_the_rest,
    write,
    write_header,
)

ENDS = {"inpainting": " for inpainting", "pix2pix": " as InstructPix2Pix"}
TITLES = {"sd1": "Stable Diffusion 1.x", "sd2": "Stable Diffusion 2.x", "sdxl": "Stable Diffusion XL"}


@pytest.fixture(
    scope="module",
    params=[
        family if family == "sd1" else pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES
    ],
)
def model(request, tmp_path_factory):
    """(family, its tensors, the directory of its configurations)."""
    pytest.importorskip("diffusers")
    directory = tmp_path_factory.mktemp(request.param)
    config = config_directory(request.param, directory / "config")
    return request.param, tiny_tensors(request.param, directory), config


def theirs(family, file, config):
    """diffusers' pipeline of the file."""
    import diffusers
    import torch

    kind = getattr(diffusers, tiny_configs(family)["model_index"]["_class_name"])
    options = {"config": str(config), "local_files_only": True, "torch_dtype": torch.float32}
    return kind.from_single_file(str(file), **options)


def assert_same_model(ours, other):
    """Every weight, every setting that both know, the tokens of prompts, and the noise process."""
    for name, module in ours.components.items():
        reference = getattr(other, name)
        tensors, found = state_dict(module), {}
        for key, value in reference.state_dict().items():
            found[key if key in tensors else f"text_model.{key}"] = value.numpy()
        assert tensors.keys() == found.keys()
        for key, value in tensors.items():
            np.testing.assert_array_equal(value, found[key], err_msg=f"{name} {key}")
        settings = reference.config if name in ("unet", "vae") else reference.config.to_dict()
        for key, value in module.config.to_dict().items():
            if key[0] != "_" and key in settings:
                expected = settings[key]
                expected = list(expected) if isinstance(expected, tuple) else expected
                assert value == expected or not (value or expected), (name, key)  # None is False
    prompts = ["a photo of a cat", "Ünïcödé! (masterpiece:1.2), it's 3 o'clock", "", "word " * 90]
    for name in ("tokenizer", "tokenizer_2"):
        if getattr(ours, name) is not None:
            rows = [
                each(prompts, padding="max_length", truncation=True, max_length=77).input_ids
                for each in (getattr(ours, name), getattr(other, name))
            ]
            assert rows[0] == rows[1]
    betas = other.scheduler.betas.numpy()
    np.testing.assert_allclose(ours.schedule.betas, betas, rtol=1e-5)
    assert ours.schedule.prediction_type == other.scheduler.config.prediction_type


def check(model, tmp_path, dtype, ema, capsys):
    family, tensors, config = model
    file = write(tmp_path / "model.safetensors", with_the_rest(family, tensors, ema=ema), dtype)
    ours = load_pipeline(file)
    told = capsys.readouterr().err.strip().splitlines()[-1]
    kind = "v_prediction" if family == "sd2-v" else "epsilon"
    base, _, which = family.partition("-")
    assert told.startswith(f"{file}: {TITLES[base]}{ENDS.get(which, '')}, {kind} (")
    assert told.endswith("passed over") == ema
    assert ours.name == str(file)
    assert ours.loaded_with == {}
    assert set(ours.stored_dtypes["unet"].values()) == {np.dtype(dtype).name}
    assert_same_model(ours, theirs(family, file, config))


@pytest.mark.interop
def test_the_model_is_the_one_that_diffusers_reads(model, tmp_path, capsys):
    check(model, tmp_path, np.float16, True, capsys)


@pytest.mark.slow
@pytest.mark.interop
@pytest.mark.parametrize(("dtype", "ema"), [(np.float32, True), (np.float32, False), (np.float16, False)])
def test_in_every_precision_with_and_without_averages(model, tmp_path, dtype, ema, capsys):
    check(model, tmp_path, dtype, ema, capsys)


@pytest.mark.interop
@pytest.mark.parametrize(
    "family",
    [
        family if family == "sd1-inpainting" else pytest.param(family, marks=pytest.mark.slow)
        for family in FURTHER
    ],
)
def test_models_for_inpainting_and_pix2pix_are_those_that_diffusers_reads(family, tmp_path, capsys):
    pytest.importorskip("diffusers")
    config = config_directory(family, tmp_path / "config")
    check((family, tiny_tensors(family, tmp_path), config), tmp_path, np.float16, True, capsys)


@pytest.mark.slow
@pytest.mark.interop
def test_the_networks_give_what_diffusers_gives(model, tmp_path):
    """Text features, the UNet's prediction and the decoded image, to 1e-5 of the largest value."""
    import torch

    family, tensors, config = model
    if family == "sd2-epsilon":
        pytest.skip("the networks are those of sd2-v")
    file = write(tmp_path / "model.safetensors", with_the_rest(family, tensors, ema=False))
    ours, other = load_pipeline(file), theirs(family, file, config)
    latents = np.random.default_rng(0).standard_normal((1, 8, 8, 4)).astype(np.float32)
    moved = torch.tensor(latents.transpose(0, 3, 1, 2).copy())
    text = ours.encode_prompts(["a photo of a cat!"])
    added = None
    options = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    with torch.no_grad():
        encoded = other.encode_prompt("a photo of a cat!", **options)
        if family == "sdxl":
            sizes = torch.tensor([[16.0, 16, 0, 0, 16, 16]])  # 8 latents of 2 px
            added = {"text_embeds": encoded[2], "time_ids": sizes}
        predicted = other.unet(moved, 500, encoded[0], added_cond_kwargs=added).sample
        decoded = other.vae.decode(moved / other.vae.config.scaling_factor).sample
    hidden = text.hidden if family == "sdxl" else text
    pairs = [
        (hidden, encoded[0].numpy()),
        (ours.denoise(latents, np.array([500]), text), predicted.numpy().transpose(0, 2, 3, 1)),
        (ours.decode(latents), decoded.numpy().transpose(0, 2, 3, 1)),
    ]
    for found, expected in pairs:
        error = np.abs(found - expected).max()
        assert error <= 1e-5 * np.abs(expected).max()


@pytest.mark.slow
def test_the_layers_that_distilled_models_leave_out_are_seen():
    """UNets of the published distilled models in few channels: the settings follow from names and shapes."""
    from fdiv_jax.checkpoints.original_names import unet_original_name
    from fdiv_jax.checkpoints.state_dicts import tensor_names
    from fdiv_jax.nn import UNet2DConditionModel, abstract_network

    for name in ("bk-sdm-tiny", "bk-sdm-v2-small", "ssd-1b", "vega"):
        config = DISTILLED[name]
        kind = "sdxl" if "addition_embed_type" in config else "sd2" if "v2" in name else "sd1"
        wide = [64 * (width // 8) for width in config["block_out_channels"]]
        heads = 8 if kind == "sd1" else [width // 64 for width in wide]
        config = {**config, "block_out_channels": wide, "attention_head_dim": heads, "norm_num_groups": 32}
        module = abstract_network(UNet2DConditionModel, config)
        rename = unet_original_name(module.config)
        shapes = {rename(each): shape for each, shape in tensor_names(module).items()}
        found = unet_settings(shapes, kind)
        own = {key: config[key] for key in ("norm_num_groups", "sample_size")}
        if kind == "sdxl":
            own |= {key: config[key] for key in ("addition_embed_type", "addition_time_embed_dim")}
        rebuilt = UNetConfig.from_dict({**found, **own})
        again = abstract_network(UNet2DConditionModel, rebuilt.to_dict())
        assert tensor_names(again) == tensor_names(module), name
        assert rebuilt.attention_head_dim == module.config.attention_head_dim, name


# What a file says of the quantity that a UNet of 2.x predicts: (more tensors, its header), and what is read.
STATED = {
    "nothing": ({}, {}, "does not say what it predicts: name it by --prediction-type"),
    "an unknown step": ({"global_step": 12345}, {}, "does not say what it predicts"),
    "2.0 base": ({"global_step": 875000}, {}, "epsilon"),
    "2.1 base": ({"global_step": 220000}, {}, "epsilon"),
    "2.1": ({"global_step": 110000}, {}, "v_prediction"),
    "a mark": ({"v_pred": ()}, {}, "v_prediction"),
    "a header": ({}, {"modelspec.prediction_type": "v"}, "v_prediction"),
    "an architecture": ({}, {"modelspec.architecture": "stable-diffusion-v2-512"}, "epsilon"),
    "another header": ({}, {"modelspec.prediction_type": "flow"}, "prediction_type is 'flow' in its header"),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The shapes of tiny models by family, from the configurations alone."""
    from fdiv_jax.nn import (
        AutoencoderKL,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        UNet2DConditionModel,
        abstract_network,
    )

    kinds = {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
    }
    return {
        family: original_shapes(
            {
                name: abstract_network(kind, configs[name])
                for name, kind in kinds.items()
                if name in (configs := tiny_configs(family))
            }
        )
        for family in ("sd1", "sd2-v", "sdxl")
    }


@pytest.mark.parametrize("case", STATED)
def test_what_a_model_predicts_is_read_or_asked_for(tiny, tmp_path, case):
    extra, metadata, expected = STATED[case]
    file = tmp_path / "model.safetensors"
    tensors = {name: np.zeros(shape, np.float16) for name, shape in tiny["sd2-v"].items()}
    save_file(tensors | {name: np.array(value) for name, value in extra.items()}, file, metadata=metadata)
    if expected in ("epsilon", "v_prediction"):
        found = describe_file(file)
        assert found.scheduler["prediction_type"] == expected
        assert found.configs["unet"]["sample_size"] == (64 if expected == "epsilon" else 96)
    else:
        with pytest.raises(ValueError, match=expected):
            describe_file(file)
    for kind in ("epsilon", "v_prediction"):  # the caller's word counts
        assert describe_file(file, prediction_type=kind).scheduler["prediction_type"] == kind


def test_marks_of_xl_models(tiny, tmp_path):
    file = write_header(tmp_path / "v.safetensors", tiny["sdxl"] | {"v_pred": (1,), "ztsnr": (1,)})
    scheduler = describe_file(file).scheduler
    assert scheduler["prediction_type"] == "v_prediction"
    assert scheduler["rescale_betas_zero_snr"]
    assert "mark v_pred" in describe_file(file).told
    with pytest.raises(ValueError, match="prediction_type 'v', expected epsilon or v_prediction"):
        describe_file(file, prediction_type="v")


UNET, VAE = "model.diffusion_model.", "first_stage_model."
CONV = UNET + "input_blocks.0.0.weight"


def only(*prefixes):
    return lambda shapes: {name: shape for name, shape in shapes.items() if name.startswith(prefixes)}


def without(prefix):
    return lambda shapes: {name: shape for name, shape in shapes.items() if not name.startswith(prefix)}


def also(**changed):
    return lambda shapes: shapes | dict(changed.values())


def these(*names):
    return lambda shapes: dict.fromkeys(names, (4, 4))


# (family, what becomes of its shapes, the kind of error, what the one line says)
REFUSED = {
    "depth": (
        "sd2-v",
        also(a=(CONV, (64, 5, 3, 3))),
        NotImplementedError,
        "a depth-to-image model: its UNet takes 5 channels and gives 4",
    ),
    "an upscaler": ("sd2-v", also(a=(CONV, (64, 7, 3, 3))), NotImplementedError, "an upscaler: its UNet"),
    "LCM": (
        "sd1",
        also(a=(UNET + "time_embed.cond_proj.weight", (32, 256))),
        NotImplementedError,
        "a latent consistency model in one file .*directory serves",
    ),
    "the refiner": (
        "sdxl",
        lambda shapes: {
            name.replace("embedders.1", "embedders.0"): shape
            for name, shape in shapes.items()
            if "embedders.0" not in name
        },
        NotImplementedError,
        "the refiner of Stable Diffusion XL",
    ),
    "a UNet": ("sd1", only(UNET), ValueError, "a UNet alone .*expected a whole text-to-image model"),
    "a bare UNet": (
        "sd1",
        lambda shapes: {n.removeprefix(UNET): s for n, s in shapes.items() if n.startswith(UNET)},
        ValueError,
        "a UNet alone",
    ),
    "no text encoder": ("sd1", only(UNET, VAE), ValueError, "a UNet and an autoencoder, without a text"),
    "half of XL": (
        "sdxl",
        without("conditioner.embedders.1."),
        ValueError,
        "XL without conditioner.embedders.1",
    ),
    "no autoencoder": ("sd1", without(VAE), ValueError, "without its autoencoder .*--vae"),
    "an autoencoder": ("sd1", only(VAE), ValueError, "an autoencoder alone: .*--vae"),
    "a text encoder": ("sd1", only("cond_stage_model."), ValueError, "a CLIP encoder alone"),
    "diffusers' UNet": (
        "sd1",
        these("conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"),
        ValueError,
        "a UNet alone, in diffusers' layout",
    ),
    "unCLIP": ("sd2-v", also(a=(UNET + "label_emb.0.0.weight", (256, 9))), NotImplementedError, "unCLIP"),
    "Playground": ("sdxl", also(a=("edm_mean", (4,))), NotImplementedError, "an EDM model"),
    "a LoRA": (
        "sd1",
        these("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"),
        ValueError,
        "a LoRA, as .*--lora",
    ),
    "diffusers' LoRA": (
        "sd1",
        these("unet.mid_block.a.to_k.lora_A.weight"),
        ValueError,
        "a LoRA, as .*--lora",
    ),
    "a LoHa": ("sd1", these("lora_unet_x.hada_w1_a"), ValueError, r"a LoHa \(hada\)"),
    "an embedding": ("sd1", these("emb_params"), ValueError, "a textual-inversion embedding"),
    "Flux": (
        "sd1",
        these("model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale"),
        NotImplementedError,
        "Flux, as .*supported: Stable Diffusion 1.x",
    ),
    "SD 3": (
        "sd1",
        these("model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias"),
        NotImplementedError,
        "Stable Diffusion 3, as",
    ),
    "a ControlNet": ("sd1", these("control_model.time_embed.0.weight"), NotImplementedError, "a ControlNet"),
    "something": ("sd1", these("a.weight", "b.weight"), ValueError, "the file holds a.weight, b.weight"),
    "its own tokens": (
        "sd1",
        also(a=("cond_stage_model.transformer.text_model.embeddings.token_embedding.weight", (595, 64))),
        ValueError,
        "vocabulary of 595 tokens, .*--config",
    ),
    "narrow heads": (
        "sd2-v",
        also(a=(UNET + "input_blocks.1.0.in_layers.2.weight", (96, 64, 3, 3))),
        ValueError,
        "96 channels",
    ),
    "a missing level": ("sd1", without(UNET + "input_blocks.2."), ValueError, "not numbered from 0"),
    "a missing tensor": ("sd1", without(UNET + "time_embed.0.bias"), ValueError, "1 missing"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_a_model_of_the_families_is_refused_in_one_line(tiny, tmp_path, capsys, case):
    family, change, error, message = REFUSED[case]
    metadata = {"modelspec.prediction_type": "v"}
    file = write_header(tmp_path / "model.safetensors", change(tiny[family]), metadata=metadata)
    with pytest.raises(error, match=rf"model\.safetensors.*{message}") as found:
        load_pipeline(file)
    assert len(str(found.value).splitlines()) == 1
    if case in ("a LoRA", "depth"):
        assert main(["sample", str(file), "a cat", "--output", str(tmp_path / "x.png")]) == 2
        waiting, told = capsys.readouterr().err.strip().splitlines()
        assert waiting.startswith("loading ")
        assert told.startswith(f"fdiv-jax: {file}: ")


def test_fp8_and_quantised_weights_are_refused(tiny, tmp_path):
    file = tmp_path / "model.safetensors"
    write_header(file, tiny["sd1"], types={CONV: "F8_E4M3"})
    with pytest.raises(
        NotImplementedError, match=r"weights in fp8 \(model\.diffusion_model\..* is F8_E4M3\)"
    ):
        load_pipeline(file)
    write_header(file, tiny["sd1"] | {CONV + ".absmax": (4,)})
    with pytest.raises(NotImplementedError, match=r"quantised weights, as .*absmax shows"):
        load_pipeline(file)


@pytest.mark.slow
@pytest.mark.interop
def test_wrappers_old_names_and_an_autoencoder_beside(model, tmp_path):
    """Names behind a trainer's `model.`, the text tower as in 2022, an autoencoder of another file."""
    family, tensors, _ = model
    if family != "sd1":
        return
    reference = load_pipeline(write(tmp_path / "plain.safetensors", tensors))
    vae = {name.removeprefix(VAE): value for name, value in tensors.items() if name.startswith(VAE)}
    vae_file = write(tmp_path / "vae.safetensors", vae | {"loss.logvar": np.zeros((), np.float32)})
    old = {name.replace("transformer.text_model.", "transformer."): value for name, value in tensors.items()}
    others = {
        "wrapped": ({f"model.{name}": value for name, value in tensors.items()}, {}),
        "of 2022": (old, {}),
        "no vae": ({n: v for n, v in tensors.items() if not n.startswith(VAE)}, {"vae": vae_file}),
        "the same vae": (tensors, {"vae": tmp_path / "plain.safetensors"}),
    }
    for name, (changed, options) in others.items():
        loaded = load_pipeline(write(tmp_path / f"{name}.safetensors", changed), **options)
        for part, module in loaded.components.items():
            expected = state_dict(reference.components[part])
            assert all(np.array_equal(v, expected[n]) for n, v in state_dict(module).items()), (name, part)
        assert loaded.vae.config == reference.vae.config
        assert loaded.loaded_with == {key: str(value) for key, value in options.items()}
    saved = reference.save(tmp_path / "saved")
    beside = load_pipeline(tmp_path / "no vae.safetensors", vae=saved)
    assert beside.vae.config == reference.vae.config
    with pytest.raises(FileNotFoundError, match=r"vae nowhere: no such file or directory; expected"):
        load_pipeline(tmp_path / "no vae.safetensors", vae="nowhere")
    with pytest.raises(ValueError, match=r"prediction_type 'epsilon' beside the model .*saved"):
        load_pipeline(saved, prediction_type="epsilon")


@pytest.mark.interop
def test_diffusers_names_the_families_alike(tiny):
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type

    from fdiv_jax.checkpoints.original_kinds import check_kind, model_family

    named = {"v1": "sd1", "v2": "sd2", "xl_base": "sdxl"}
    for family, shapes in tiny.items():
        wide = dict(shapes)
        if family == "sd2-v":  # diffusers goes by the published width and place
            wide[UNET + "input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight"] = (320, 1024)
        if family == "sdxl":
            wide["conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias"] = (1280,)
        meta = {name: torch.empty(shape, device="meta") for name, shape in wide.items()}
        assert named[infer_diffusers_model_type(meta)] == model_family(shapes, check_kind(shapes))
