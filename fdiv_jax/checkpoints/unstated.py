"""The settings that a single file cannot hold: it has tensors only, and programs assume the rest."""

from collections.abc import Mapping

from flax import nnx

from fdiv_jax.checkpoints.original_names import family
from fdiv_jax.checkpoints.original_shapes import CHANNELS_A_HEAD
from fdiv_jax.nn import UNetConfig, VAEConfig
from fdiv_jax.nn.config import ModelConfig, per_block

__all__ = ["unstated_settings"]

_UNET = {
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "act_fn": "silu",
    "downsample_padding": 1,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
}
_VAE = {
    "act_fn": "silu",
    "norm_num_groups": 32,
    "shift_factor": None,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}


def unstated_settings(modules: Mapping[str, nnx.Module], prediction_type: str = "epsilon") -> list[str]:
    """The settings of a model that its single file cannot express, each with what programs assume instead.

    diffusers reads all of them from a directory given as `config`; A1111 and ComfyUI know the file alone.
    For settings that tensors do show (the layers that distilled models leave out, the numbers of transformer
    layers) ComfyUI follows the tensors, and A1111 builds the published Stable Diffusion.

    Args:
        modules: the modules by component, as for `save_single_file`.
        prediction_type: the quantity that the UNet predicts.

    Returns:
        One line per setting, such as "unet norm_num_groups=4 (32 is assumed)"; empty for the published Stable
        Diffusion models.
    """
    config: UNetConfig = modules["unet"].config  # type: ignore[attr-defined]
    kind = family(config)
    lines = _unusual("unet", config, _UNET)
    levels = len(config.block_out_channels)
    usual = (8,) * levels
    if kind != "sd1":
        usual = tuple(channels // CHANNELS_A_HEAD for channels in config.block_out_channels)
    heads = per_block("attention_head_dim", config.attention_head_dim, levels)
    attending = [name.startswith("CrossAttn") for name in config.down_block_types]
    attending[-1] |= config.mid_block_type == "UNetMidBlock2DCrossAttn"
    if any(a != b for a, b, attends in zip(heads, usual, attending, strict=True) if attends):
        lines.append(f"unet attention_head_dim={list(heads)} ({list(usual)} heads are assumed)")
    if config.mid_block_type != "UNetMidBlock2DCrossAttn":
        lines.append(f"unet mid_block_type={config.mid_block_type!r} (A1111 builds the whole middle block)")
    if config.reverse_transformer_layers_per_block is not None:
        lines.append(
            "unet reverse_transformer_layers_per_block="
            f"{config.reverse_transformer_layers_per_block!r} (A1111 takes one number per level)"
        )
    if config.layers_per_block != 2:
        more = (
            "" if isinstance(config.layers_per_block, int) else "; diffusers takes one number for all levels"
        )
        lines.append(f"unet layers_per_block={config.layers_per_block!r} (A1111 builds 2{more})")
    vae: VAEConfig = modules["vae"].config  # type: ignore[attr-defined]
    factor = 0.13025 if kind == "sdxl" else 0.18215
    lines += _unusual("vae", vae, {**_VAE, "scaling_factor": factor})
    if prediction_type != "epsilon":
        lines.append(f"scheduler prediction_type={prediction_type!r} (to be chosen in the program)")
    return lines


def _unusual(component: str, config: ModelConfig, usual: Mapping[str, object]) -> list[str]:
    found = {name: getattr(config, name) for name in usual}
    return [
        f"{component} {name}={value!r} ({usual[name]!r} is assumed)"
        for name, value in found.items()
        if value != usual[name]
    ]
