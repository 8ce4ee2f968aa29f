"""Single files: names and layouts are the original ones, and diffusers reads what is written."""

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from fdiv_jax.checkpoints import load_single_file, save_single_file, state_dict
from fdiv_jax.checkpoints.original_names import open_clip_name, unet_original_name, vae_original_name
from fdiv_jax.checkpoints.state_dicts import tensor_names
from fdiv_jax.nn import AutoencoderKL, UNet2DConditionModel, abstract_network
from tests.checkpoints.torch_pipelines import CROSS_DOWN, CROSS_UP, DOWN, UP

FULL = {
    "sd1": {
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    "sd2": {
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    "sdxl": {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": (DOWN, CROSS_DOWN, CROSS_DOWN),
        "up_block_types": (CROSS_UP, CROSS_UP, UP),
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "transformer_layers_per_block": (1, 2, 10),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
FULL_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
# Numbers of tensors in the published files' UNets, and some of their names and shapes.
PUBLISHED = {
    "sd1": (
        686,
        {
            "time_embed.2.weight": (1280, 1280),
            "input_blocks.0.0.weight": (320, 4, 3, 3),
            "input_blocks.1.1.proj_in.weight": (320, 320, 1, 1),
            "input_blocks.3.0.op.weight": (320, 320, 3, 3),
            "input_blocks.4.0.skip_connection.weight": (640, 320, 1, 1),
            "input_blocks.8.1.transformer_blocks.0.attn2.to_k.weight": (1280, 768),
            "input_blocks.11.0.out_layers.3.weight": (1280, 1280, 3, 3),
            "middle_block.1.transformer_blocks.0.ff.net.0.proj.weight": (10240, 1280),
            "middle_block.2.emb_layers.1.weight": (1280, 1280),
            "output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
            "output_blocks.5.2.conv.weight": (1280, 1280, 3, 3),
            "output_blocks.11.0.skip_connection.weight": (320, 640, 1, 1),
            "output_blocks.11.1.transformer_blocks.0.attn1.to_out.0.bias": (320,),
            "out.2.weight": (4, 320, 3, 3),
        },
    ),
    "sd2": (
        686,
        {
            "input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
            "input_blocks.1.1.proj_in.weight": (320, 320),
        },
    ),
    "sdxl": (
        1680,
        {
            "label_emb.0.0.weight": (1280, 2816),
            "input_blocks.4.1.transformer_blocks.1.attn2.to_k.weight": (640, 2048),
            "input_blocks.8.1.transformer_blocks.9.attn2.to_v.weight": (1280, 2048),
            "output_blocks.2.2.conv.weight": (1280, 1280, 3, 3),
            "output_blocks.8.0.skip_connection.weight": (320, 640, 1, 1),
        },
    ),
}


def full_size(kind, config):
    """(our module's names with PyTorch shapes, its configuration); nothing is allocated."""
    module = abstract_network(kind, config)
    return tensor_names(module), module.config


@pytest.fixture(scope="module", params=FULL)
def full_unet(request):
    return request.param, *full_size(UNet2DConditionModel, FULL[request.param])


def test_the_unets_names_are_those_of_the_published_files(full_unet):
    kind, shapes, config = full_unet
    renamed = {unet_original_name(config)(name): shape for name, shape in shapes.items()}
    count, known = PUBLISHED[kind]
    assert len(renamed) == len(shapes) == count
    assert {name: renamed[name] for name in known} == known
    blocks = {tuple(name.split(".")[:2]) for name in renamed}
    last = 8 if kind == "sdxl" else 11
    assert {int(n) for block, n in blocks if block == "input_blocks"} == set(range(last + 1))
    assert {int(n) for block, n in blocks if block == "output_blocks"} == set(range(last + 1))


@pytest.mark.interop
def test_diffusers_converts_the_unets_names_back(full_unet):
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    kind, shapes, config = full_unet
    rename = unet_original_name(config)
    original = {
        f"model.diffusion_model.{rename(name)}": torch.empty(shape, device="meta")
        for name, shape in shapes.items()
    }
    settings = {"layers_per_block": 2, "addition_embed_type": FULL[kind].get("addition_embed_type")}
    converted = convert_ldm_unet_checkpoint(original, settings)
    assert {name: tuple(value.shape) for name, value in converted.items()} == shapes


@pytest.mark.interop
def test_diffusers_converts_the_autoencoders_names_back():
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    shapes, _ = full_size(AutoencoderKL, FULL_VAE)
    rename = vae_original_name(4)
    names = {rename(name) for name in shapes}
    assert len(names) == len(shapes) == 248
    assert {"encoder.down.3.block.1.conv2.weight", "decoder.up.0.block.0.nin_shortcut.weight"} <= names
    assert {
        "decoder.up.3.upsample.conv.bias",
        "decoder.mid.attn_1.proj_out.weight",
        "quant_conv.bias",
    } <= names
    original = {
        f"first_stage_model.{rename(name)}": torch.empty(shape, device="meta")
        for name, shape in shapes.items()
    }
    converted = convert_ldm_vae_checkpoint(original, FULL_VAE)
    assert {name: tuple(value.shape) for name, value in converted.items()} == shapes


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def model(request, tmp_path_factory):
    """(family, diffusers' pipeline, our modules, the directory of its configurations without weights)."""
    pytest.importorskip("diffusers")
    from tests.checkpoints.torch_pipelines import our_modules, torch_pipeline

    directory = tmp_path_factory.mktemp(request.param)
    pipe = torch_pipeline(request.param)
    modules = our_modules(pipe, directory / "parts")
    pipe.save_pretrained(directory / "config")
    for weights in (directory / "config").rglob("*.safetensors"):
        weights.unlink()
    return request.param, pipe, modules, directory / "config"


@pytest.mark.interop
def test_diffusers_loads_the_file_bit_for_bit(model, tmp_path):
    import torch

    _, pipe, modules, config = model
    file = save_single_file(tmp_path / "model.safetensors", modules)
    loaded = type(pipe).from_single_file(str(file), config=str(config), local_files_only=True)
    for component in modules:
        ours, theirs = (getattr(each, component).state_dict() for each in (loaded, pipe))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs), component


@pytest.mark.interop
def test_a_round_trip_is_the_identity(model, tmp_path):
    _, _, modules, _ = model
    file = save_single_file(tmp_path / "model.safetensors", modules)
    abstract = {name: nnx.eval_shape(lambda m=m: m) for name, m in modules.items()}
    back = load_single_file(file, abstract)
    assert set(back) == set(modules)
    for name, module in modules.items():
        ours, theirs = state_dict(back[name]), state_dict(module)
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[n], theirs[n]) for n in theirs)


@pytest.mark.interop
def test_layouts_are_the_original_ones(model, tmp_path):
    kind, _, modules, _ = model
    tensors = load_file(save_single_file(tmp_path / "model.safetensors", modules, dtype="float16"))
    assert {value.dtype for value in tensors.values()} == {np.dtype(np.float16)}
    assert tensors["first_stage_model.encoder.mid.attn_1.q.weight"].shape == (16, 16, 1, 1)
    if kind == "sd1":
        assert "cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc2.bias" in tensors
        return
    stem = "cond_stage_model.model" if kind == "sd2" else "conditioner.embedders.1.model"
    tower = state_dict(modules["text_encoder" if kind == "sd2" else "text_encoder_2"])
    layer = "text_model.encoder.layers.1.self_attn"
    fused = np.concatenate([tower[f"{layer}.{part}_proj.weight"] for part in "qkv"]).astype(np.float16)
    np.testing.assert_array_equal(tensors[f"{stem}.transformer.resblocks.1.attn.in_proj_weight"], fused)
    assert tensors[f"{stem}.positional_embedding"].shape == (24, fused.shape[1])
    if kind == "sdxl":
        projection = tower["text_projection.weight"].astype(np.float16)
        np.testing.assert_array_equal(tensors[f"{stem}.text_projection"], projection.T)
        assert "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight" in tensors


@pytest.mark.interop
def test_what_published_files_hold_besides_is_passed_over(model, tmp_path):
    kind, _, modules, _ = model
    path = save_single_file(tmp_path / "model.safetensors", modules)
    tensors = load_file(path)
    more = {"alphas_cumprod": np.ones(3, np.float32), "model_ema.decay": np.ones((), np.float32)}
    if kind == "sd1":
        more["cond_stage_model.transformer.text_model.embeddings.position_ids"] = np.arange(24)[None]
    if kind == "sd2":
        more["cond_stage_model.model.logit_scale"] = np.ones((), np.float32)
        more["cond_stage_model.model.text_projection"] = np.ones((12, 12), np.float32)
        more["cond_stage_model.model.transformer.resblocks.2.attn.in_proj_bias"] = np.ones(36, np.float32)
    save_file(tensors | more, path)
    back = load_single_file(path, modules)["text_encoder"]
    assert all(np.array_equal(v, state_dict(modules["text_encoder"])[n]) for n, v in state_dict(back).items())


@pytest.mark.interop
def test_faults_are_named(model, tmp_path):
    kind, _, modules, _ = model
    path = save_single_file(tmp_path / "model.safetensors", modules)
    with pytest.raises(FileExistsError, match=r"model\.safetensors exists"):
        save_single_file(path, modules)
    tensors = load_file(path)
    name = "model.diffusion_model.input_blocks.1.0.in_layers.2.weight"
    save_file({n: v for n, v in tensors.items() if n != name}, path)
    with pytest.raises(ValueError, match=rf"1 missing: {name}"):
        load_single_file(path, modules)
    save_file(tensors | {name: tensors[name][:3]}, path)
    with pytest.raises(ValueError, match=r"1 misshapen: down_blocks\.0\.resnets\.0\.conv1\.weight"):
        load_single_file(path, modules)
    save_file(tensors | {name + "s": tensors[name]}, path)
    with pytest.raises(ValueError, match=rf"1 unexpected: {name}s"):
        load_single_file(path, modules)
    with pytest.raises(ValueError, match=f"of the family {kind}, expected"):
        save_single_file(tmp_path / "x.safetensors", {n: m for n, m in modules.items() if n != "vae"})
    with pytest.raises(ValueError, match="expected unet among them"):
        save_single_file(tmp_path / "x.safetensors", {})
    assert not (tmp_path / "x.safetensors").exists()


def test_names_without_a_place_are_refused(full_unet):
    _, _, config = full_unet
    for rename in (unet_original_name(config), vae_original_name(2), open_clip_name):
        for name in ("nowhere.weight", "down_blocks.9.resnets.0.conv1.weight", "encoder.layers.0.x.weight"):
            with pytest.raises(ValueError, match=r"no (original|OpenCLIP) name"):
                rename(name)


@pytest.mark.interop
@pytest.mark.slow
def test_the_world_fashion_draws_the_same_from_one_file(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    torch = pytest.importorskip("torch")
    from fdiv_jax import load_pipeline

    pipe = load_pipeline("fashion")
    config = pipe.save(tmp_path / "fashion")
    file = save_single_file(tmp_path / "fashion.safetensors", pipe.components)
    kind = diffusers.StableDiffusionPipeline
    images = []
    for loaded in (
        kind.from_pretrained(config),
        kind.from_single_file(str(file), config=str(config), local_files_only=True),
    ):
        loaded.set_progress_bar_config(disable=True)
        draw = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "np"}
        generator = torch.Generator().manual_seed(0)
        images.append(loaded("a sneaker, sketch style", generator=generator, **draw).images)
    assert images[0].std() > 0.05
    np.testing.assert_array_equal(images[0], images[1])
