"""AutoencoderKL against diffusers' on random configurations, through files in both directions."""

import numpy as np
import pytest

from fdiv_jax.checkpoints import load_component, save_component
from fdiv_jax.nn import AutoencoderKL
from tests.nn.helpers import (
    TOLERANCE,
    array_image,
    assert_same_tensors,
    call,
    randomised,
    relative_error,
    torch_image,
)

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.interop

# name -> (configuration, (h, w) of the images)
CONFIGS = {
    "stable-diffusion-in-small": (
        {
            "block_out_channels": (8, 16, 16, 16),
            "layers_per_block": 2,
            "norm_num_groups": 4,
            "latent_channels": 4,
        },
        (32, 32),
    ),
    "fashion-like": (
        {"block_out_channels": (8, 12), "layers_per_block": 1, "norm_num_groups": 2, "scaling_factor": 0.7},
        (16, 24),
    ),
    "odd-sizes": (
        {
            "block_out_channels": (6, 12, 12),
            "layers_per_block": 1,
            "norm_num_groups": 6,
            "latent_channels": 3,
        },
        (17, 23),
    ),
    "without-attention": (
        {
            "in_channels": 1,
            "out_channels": 2,
            "block_out_channels": (8, 8),
            "layers_per_block": 3,
            "norm_num_groups": 8,
            "mid_block_add_attention": False,
            "act_fn": "gelu",
        },
        (8, 10),
    ),
    "no-quant-conv": (
        {
            "block_out_channels": (8,),
            "layers_per_block": 1,
            "norm_num_groups": 1,
            "latent_channels": 16,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
        },
        (5, 7),
    ),
}


QUICK = ("stable-diffusion-in-small",)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in QUICK)) for n in CONFIGS]
)
def test_it_is_theirs(name, tmp_path):
    config, size = CONFIGS[name]
    blocks = len(config["block_out_channels"])
    theirs = diffusers.AutoencoderKL(
        **config,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
    )
    randomised(theirs, seed=len(name)).save_pretrained(tmp_path / "theirs")
    loaded = load_component(tmp_path / "theirs", AutoencoderKL)

    random = np.random.default_rng(0)
    images = random.uniform(-1, 1, (2, *size, theirs.config.in_channels)).astype(np.float32)
    with torch.no_grad():
        posterior = theirs.encode(torch_image(images)).latent_dist
    mean, log_variance = call(loaded.model.encode, images)
    assert relative_error(mean, array_image(posterior.mean)) <= TOLERANCE
    assert relative_error(log_variance, array_image(posterior.logvar)) <= TOLERANCE

    latents = random.standard_normal(mean.shape).astype(np.float32)
    with torch.no_grad():
        expected = theirs.decode(torch_image(latents)).sample
    assert relative_error(call(loaded.model.decode, latents), array_image(expected)) <= TOLERANCE

    save_component(tmp_path / "ours", loaded.model, stored_dtypes=loaded.stored_dtypes)
    again, report = diffusers.AutoencoderKL.from_pretrained(
        tmp_path / "ours", output_loading_info=True, low_cpu_mem_usage=False
    )
    assert not any(report.values()), report
    assert_same_tensors(again.state_dict(), theirs.state_dict())
    assert again.config.scaling_factor == theirs.config.scaling_factor


@pytest.mark.parametrize("linear_as_convolution", [False, True])
def test_files_of_2022(linear_as_convolution, tmp_path):
    """Stable Diffusion 1's autoencoder has query, key, value, proj_attn; some files 1 x 1 convolutions."""
    from safetensors.numpy import load_file, save_file

    theirs = diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=2)
    randomised(theirs, seed=1).save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = {}
    for name, value in load_file(file).items():
        if "attentions" in name and "group_norm" not in name:
            for new, old in (
                ("to_q", "query"),
                ("to_k", "key"),
                ("to_v", "value"),
                ("to_out.0", "proj_attn"),
            ):
                name = name.replace(f".{new}.", f".{old}.")
            if linear_as_convolution and name.endswith("weight"):
                value = value[..., None, None]
        tensors[name] = value
    save_file(tensors, file)
    loaded = load_component(tmp_path, AutoencoderKL)
    latents = np.random.default_rng(0).standard_normal((1, 4, 6, 4)).astype(np.float32)
    with torch.no_grad():
        expected = theirs.decode(torch_image(latents)).sample
    assert relative_error(call(loaded.model.decode, latents), array_image(expected)) <= TOLERANCE
    if (
        not linear_as_convolution
    ):  # diffusers reads these files too, so ours and theirs agree on what they mean
        again = diffusers.AutoencoderKL.from_pretrained(tmp_path, low_cpu_mem_usage=False)
        assert_same_tensors(again.state_dict(), theirs.state_dict())
