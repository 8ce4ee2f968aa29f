"""Single files in the original layout: tiny models of four families, and headers of the published sizes."""

import json
import struct
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from fdiv_jax.checkpoints import save_single_file
from fdiv_jax.checkpoints.original_names import (
    clip_original_name,
    open_clip_name,
    unet_original_name,
    vae_original_name,
)
from fdiv_jax.checkpoints.state_dicts import tensor_names
from fdiv_jax.pipeline.clip_tokenizer import published_tokenizer
from tests.nn.helpers import randomised

DATA = Path(__file__).parent / "data"
PUBLISHED = {
    "sd1": "stable-diffusion-1-5",
    "sd2-v": "stable-diffusion-2-1",
    "sd2-epsilon": "stable-diffusion-2-1",
    "sdxl": "stable-diffusion-xl-base-1-0",
    "sd1-inpainting": "stable-diffusion-1-5",
    "sd1-pix2pix": "stable-diffusion-1-5",
    "sd2-inpainting": "stable-diffusion-2-1",
    "sdxl-inpainting": "stable-diffusion-xl-base-1-0",
}
FAMILIES = ("sd1", "sd2-v", "sd2-epsilon", "sdxl")
FURTHER = tuple(name for name in PUBLISHED if name not in FAMILIES)
BESIDE = {"inpainting": (9, "Inpaint"), "pix2pix": (8, "InstructPix2Pix")}
"""Channels of the UNet, and the name of the pipeline."""
# Sizes that differ from the published configurations; all else is as published.
SD1 = {
    "block_out_channels": [32, 64],
    "cross_attention_dim": 64,
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}
UNETS = {
    "sd1": SD1,
    "sd2": {**SD1, "block_out_channels": [64, 128], "attention_head_dim": [1, 2]},
    "sdxl": {
        "block_out_channels": [64, 128],
        "attention_head_dim": [1, 2],
        "cross_attention_dim": 192,
        "layers_per_block": 1,
        "transformer_layers_per_block": [1, 2],
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 32,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    },
}
VAE = {
    "block_out_channels": [32, 32],
    "layers_per_block": 1,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
}
TOWER = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 1, "num_hidden_layers": 2}


def tiny_configs(family):
    """The published configuration files of a family, with tiny sizes, and the scheduler's prediction type."""
    configs = json.loads((DATA / f"{PUBLISHED[family]}.json").read_text())
    base, _, kind = family.partition("-")
    configs["unet"] |= UNETS[base]
    if kind in BESIDE:
        configs["unet"]["in_channels"], name = BESIDE[kind]
        configs["model_index"]["_class_name"] = f"StableDiffusion{'XL' * (base == 'sdxl')}{name}Pipeline"
    configs["vae"] |= VAE
    configs["text_encoder"] |= TOWER
    if base == "sdxl":
        # diffusers tells the two towers apart by their widths
        configs["text_encoder_2"] |= {**TOWER, "hidden_size": 128, "num_attention_heads": 2}
        configs["text_encoder_2"]["projection_dim"] = 32
    if family in ("sd2-epsilon", "sd2-inpainting"):
        configs["scheduler"]["prediction_type"] = "epsilon"
        configs["unet"]["sample_size"], configs["vae"]["sample_size"] = 64, 512
    return configs


def config_directory(family, directory):
    """A diffusers directory without weights, which `from_single_file` takes as `config`."""
    configs = tiny_configs(family)
    index = {**configs.pop("model_index"), "safety_checker": [None, None], "feature_extractor": [None, None]}
    if not family.startswith("sdxl"):
        index |= {"requires_safety_checker": False, "image_encoder": [None, None]}
    directory.mkdir()
    (directory / "model_index.json").write_text(json.dumps(index))
    for name, config in configs.items():
        (directory / name).mkdir()
        file = "scheduler_config.json" if name == "scheduler" else "config.json"
        (directory / name / file).write_text(json.dumps(config))
    # stabilityai's tokenizers pad with "!" (special_tokens_map.json of 2.1, tokenizer_2 of XL)
    pads = {"tokenizer": "!" if family.startswith("sd2") else "<|endoftext|>"}
    if family.startswith("sdxl"):
        pads["tokenizer_2"] = "!"
    for name, pad in pads.items():
        published_tokenizer(pad).save_pretrained(directory / name)
    return directory


def tiny_tensors(family, directory):
    """The tensors of a tiny model of random weights in the original layout; float32."""
    import diffusers
    import torch
    import transformers

    from tests.checkpoints.torch_pipelines import our_modules

    torch.set_num_threads(1)
    configs = tiny_configs(family)
    parts = type("Parts", (), {})()
    parts.unet = diffusers.UNet2DConditionModel.from_config(configs["unet"])
    parts.vae = diffusers.AutoencoderKL.from_config(configs["vae"])
    for name in ("text_encoder", "text_encoder_2"):
        if name in configs:
            kind = getattr(transformers, configs[name]["architectures"][0])
            setattr(parts, name, kind(kind.config_class.from_dict(configs[name])).float())
    for seed, model in enumerate(vars(parts).values()):
        randomised(model, seed)
    modules = our_modules(parts, directory / "parts")
    return load_file(save_single_file(directory / "parts" / "model.safetensors", modules))


def with_the_rest(family, tensors, *, ema):
    """The tensors with what published files hold besides: schedules, buffers, averages."""
    rest = {"alphas_cumprod": np.ones(1000, np.float32), "betas": np.zeros(1000, np.float32)}
    if family.startswith("sd1"):
        rest["cond_stage_model.transformer.text_model.embeddings.position_ids"] = np.arange(77)[None]
        rest["cond_stage_model.logit_scale"] = np.ones((), np.float32)
    if family.startswith("sdxl"):
        rest["conditioner.embedders.1.model.logit_scale"] = np.ones((), np.float32)
        rest["conditioner.embedders.0.transformer.text_model.embeddings.position_ids"] = np.arange(77)[None]
    if family.startswith("sd2"):
        rest["global_step"] = np.array({"sd2-v": 110000, "sd2-epsilon": 875000}.get(family, 665000))
        rest["cond_stage_model.model.logit_scale"] = np.ones((), np.float32)
        rest["cond_stage_model.model.text_projection"] = np.ones((64, 64), np.float32)
    if ema:
        stem = "model.diffusion_model."
        rest |= {
            "model_ema." + name.removeprefix("model.").replace(".", ""): value + 1
            for name, value in tensors.items()
            if name.startswith(stem)
        }
        rest["model_ema.decay"] = np.array(0.9999, np.float32)
        rest["model_ema.num_updates"] = np.array(7, np.int32)
    return {**tensors, **rest}


def write(path, tensors, dtype=np.float32, metadata=None):
    """A file of safetensors, its floating-point tensors in a type."""
    cast = {
        name: value.astype(dtype) if value.dtype == np.float32 else value for name, value in tensors.items()
    }
    save_file(cast, path, metadata=metadata)
    return path


def original_shapes(modules):
    """The shapes of a whole model in the original layout, by name, from modules that may be abstract."""
    kinds = {
        "unet": ("model.diffusion_model.", unet_original_name(modules["unet"].config)),
        "vae": ("first_stage_model.", vae_original_name(len(modules["vae"].config.block_out_channels))),
    }
    if "text_encoder_2" in modules:
        kinds["text_encoder"] = ("conditioner.embedders.0.", clip_original_name)
        kinds["text_encoder_2"] = ("conditioner.embedders.1.", open_clip_name)
    elif modules["unet"].config.use_linear_projection:
        kinds["text_encoder"] = ("cond_stage_model.", open_clip_name)
    else:
        kinds["text_encoder"] = ("cond_stage_model.", clip_original_name)
    shapes = {}
    for component, (prefix, rename) in kinds.items():
        for name, shape in tensor_names(modules[component]).items():
            original = rename(name)
            for part in "qkv":
                if original.endswith((f".attn.{part}.weight", f".attn.{part}.bias")):
                    stem, leaf = original.rsplit(f".{part}.", 1)
                    original, shape = f"{stem}.in_proj_{leaf}", (3 * shape[0], *shape[1:])
                    break
            shapes[prefix + original] = shape[::-1] if original == "model.text_projection" else shape
    return shapes


def write_header(path, shapes, kind="F16", metadata=None, types=None):
    """A sparse file of zeros with these shapes: no bytes on the disk beside its header."""
    sizes = {"F16": 2, "BF16": 2, "F32": 4, "F8_E4M3": 1, "I64": 8}
    header, place = {}, 0
    for name, shape in shapes.items():
        own = (types or {}).get(name, kind)
        end = place + sizes[own] * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": own, "shape": list(shape), "data_offsets": [place, end]}
        place = end
    if metadata:
        header["__metadata__"] = metadata
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + place)
    return path
