"""Distilled models leave out layers: they load, equal diffusers', and leave by every export."""

import json
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdiv_jax.checkpoints import (
    apply_delta,
    load_lora,
    load_single_file,
    load_state_dict,
    save_component,
    save_delta,
    save_lora,
    save_single_file,
    state_dict,
)
from fdiv_jax.checkpoints.state_dicts import tensor_names
from fdiv_jax.checkpoints.unstated import unstated_settings
from fdiv_jax.nn import TextConditioning, UNet2DConditionModel, UNetConfig, VAEConfig, abstract_network
from fdiv_jax.nn.lora import init_lora, merge_lora
from fdiv_jax.unlearning import GROUPS, Network, select
from tests.checkpoints.test_single_file import FULL, FULL_VAE
from tests.checkpoints.torch_pipelines import CROSS_DOWN, CROSS_UP, DISTILLED
from tests.divergences.oracles import quickly
from tests.nn.helpers import array_image, assert_same_tensors, call, relative_error, torch_image

BK = {**FULL["sd1"], "layers_per_block": 1}
THREE = {
    "down_block_types": (CROSS_DOWN,) * 3,
    "up_block_types": (CROSS_UP,) * 3,
    "block_out_channels": (320, 640, 1280),
}
# Numbers of parameters that the authors publish, exactly or rounded (BK-SDM's card, segmind/distill-sd, the
# models' cards). bk-sdm-base and bk-sdm-tiny have the layers of small-sd and tiny-sd.
PUBLISHED = {
    "small-sd": (BK, 579_384_964, 0),
    "tiny-sd": ({**BK, **THREE, "mid_block_type": None}, 323_384_964, 0),
    "bk-sdm-small": ({**BK, "mid_block_type": None}, 0.49e9, 0.01e9),
    "ssd-1b": (
        {
            **FULL["sdxl"],
            "mid_block_type": "UNetMidBlock2D",
            "transformer_layers_per_block": [0, [2, 2], [4, 4]],
            "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
        },
        1.3e9,
        0.05e9,
    ),
    "vega": (
        {
            **FULL["sdxl"],
            "mid_block_type": "UNetMidBlock2D",
            "transformer_layers_per_block": [0, [1, 1], [2, 2]],
            "reverse_transformer_layers_per_block": [[2, 2, 2], [1, 1, 1], 1],
        },
        0.74e9,
        0.01e9,
    ),
}


def abstract(config):
    """Our network of a configuration as JSON gives it."""
    return abstract_network(UNet2DConditionModel, json.loads(json.dumps(config)))


@pytest.mark.parametrize("name", quickly(PUBLISHED, ["bk-sdm-small", "vega"]))
def test_they_have_the_published_sizes(name):
    config, expected, tolerance = PUBLISHED[name]
    shapes = tensor_names(abstract(config))
    assert sum(math.prod(shape) for shape in shapes.values()) == pytest.approx(expected, abs=tolerance)


@pytest.mark.slow
@pytest.mark.interop
@pytest.mark.parametrize("name", PUBLISHED)
def test_diffusers_builds_the_same_at_full_size(name):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    config = json.loads(json.dumps(PUBLISHED[name][0]))
    with torch.device("meta"):
        theirs = diffusers.UNet2DConditionModel(**config)
    assert tensor_names(abstract(config)) == {n: tuple(v.shape) for n, v in theirs.state_dict().items()}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """name -> (diffusers' pipeline, our modules, a directory of its configurations), made once."""
    pytest.importorskip("diffusers")
    from tests.checkpoints.torch_pipelines import our_modules, torch_pipeline

    made = {}

    def get(name):
        if name not in made:
            directory = tmp_path_factory.mktemp(name)
            pipe = torch_pipeline(name)
            made[name] = pipe, our_modules(pipe, directory / "parts"), directory / "config"
            pipe.save_pretrained(directory / "config")
        return made[name]

    return get


def changed(modules):
    """The modules with a change of rank 2 in the cross-attention's keys and in a text tower."""
    result = dict(modules)
    rng = np.random.default_rng(0)
    for component, part in (("unet", "attn2.to_k.weight"), ("text_encoder", "mlp.fc1.weight")):
        tensors = {name: value.copy() for name, value in state_dict(modules[component]).items()}
        for name, value in tensors.items():
            if name.endswith(part):
                rows, columns = value.shape
                update = rng.standard_normal((rows, 2)) @ rng.standard_normal((2, columns))
                value += 0.1 * update.astype(np.float32)
        result[component] = load_state_dict(modules[component], tensors)
    return result


def drawn(lora):
    """The LoRA with random factors."""
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda x: jnp.asarray(0.2 * rng.standard_normal(x.shape), jnp.float32), lora)


FAST = ("bk-sdm-tiny",)
SOME_FAST = [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in DISTILLED]
LAYERS = r"(attn[12]\.to_|proj_in|ff\.net|conv1|conv_shortcut|conv\.)"
FAST_LORAS = (("bk-sdm-tiny", "diffusers"),)


@pytest.mark.interop
@pytest.mark.parametrize("name", SOME_FAST)
def test_it_computes_what_diffusers_computes(name, models):
    import torch

    pipe, modules, _ = models(name)
    unet, theirs = modules["unet"], pipe.unet
    rng = np.random.default_rng(1)
    latents = rng.standard_normal((2, 8, 12, 4)).astype(np.float32)
    text = rng.standard_normal((2, 5, theirs.config.cross_attention_dim)).astype(np.float32)
    given, added = text, None
    if width := unet.config.pooled_dim:
        pooled = rng.standard_normal((2, width)).astype(np.float32)
        sizes = rng.integers(0, 1024, (2, 6)).astype(np.float32)
        given = TextConditioning(jnp.asarray(text), jnp.asarray(pooled), jnp.asarray(sizes))
        added = {"text_embeds": torch.tensor(pooled), "time_ids": torch.tensor(sizes)}
    times = np.array([3, 987])
    with torch.no_grad():
        expected = theirs(
            torch_image(latents), torch.tensor(times), torch.tensor(text), added_cond_kwargs=added
        )
    ours = call(unet.__call__, latents, times, given)
    assert relative_error(ours, array_image(expected.sample)) <= 1e-5


@pytest.mark.interop
@pytest.mark.parametrize("name", SOME_FAST)
def test_it_leaves_as_a_directory_and_as_a_delta(name, models, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    pipe, modules, _ = models(name)
    save_component(tmp_path / "unet", modules["unet"])
    again, report = diffusers.UNet2DConditionModel.from_pretrained(
        tmp_path / "unet", output_loading_info=True, low_cpu_mem_usage=False
    )
    assert not any(report.values()), report
    assert_same_tensors(again.state_dict(), pipe.unet.state_dict())
    written = json.loads((tmp_path / "unet" / "config.json").read_text())
    for key, value in json.loads(json.dumps(DISTILLED[name])).items():
        assert written[key] == value

    tuned = changed(modules)
    file = save_delta(tmp_path / "delta.safetensors", modules, tuned, base_name=name)
    for component, module in apply_delta(file, modules).items():
        expected = state_dict(tuned[component])
        assert all(np.array_equal(v, expected[n]) for n, v in state_dict(module).items())


@pytest.mark.interop
@pytest.mark.parametrize("name", SOME_FAST)
def test_it_leaves_as_a_single_file(name, models, tmp_path):
    pipe, modules, config = models(name)
    file = save_single_file(tmp_path / "model.safetensors", modules)
    for component, module in load_single_file(file, modules).items():
        expected = state_dict(modules[component])
        assert all(np.array_equal(v, expected[n]) for n, v in state_dict(module).items())
    loaded = type(pipe).from_single_file(str(file), config=str(config), local_files_only=True)
    for component in modules:
        ours, theirs = (getattr(each, component).state_dict() for each in (loaded, pipe))
        assert_same_tensors(ours, theirs)


@pytest.mark.interop
@pytest.mark.parametrize(
    ("name", "layout"),
    [
        pytest.param(name, layout, marks=[pytest.mark.slow] * ((name, layout) not in FAST_LORAS))
        for name in DISTILLED
        for layout in ("diffusers", "kohya")
    ],
)
def test_it_takes_a_lora_of_every_group(name, layout, models, tmp_path):
    pytest.importorskip("peft")
    import copy

    pipe, modules, _ = models(name)
    loras = {}
    for component, module in modules.items():
        if component == "vae":
            continue
        parameters = Network.parameters(module)
        pattern = LAYERS if component == "unet" else "_proj|fc1"
        kernels = [n for n in select(parameters, pattern).names if n.endswith("kernel")]
        lora = init_lora(parameters, kernels, rank=2, alpha=3.0, key=jax.random.key(0))
        loras[component] = drawn(lora)
    file = save_lora(tmp_path / "lora.safetensors", loras, layout=layout, unet_config=modules["unet"].config)
    back = load_lora(file, modules)
    theirs = copy.deepcopy(pipe)
    theirs.load_lora_weights(str(file))
    theirs.fuse_lora(components=list(loras))
    for component, lora in loras.items():
        assert all(np.array_equal(v, back[component].factors[n]) for n, v in lora.factors.items())
        fused = {n.replace(".base_layer", ""): v for n, v in getattr(theirs, component).state_dict().items()}
        merged = merge_lora(Network.parameters(modules[component]), lora)
        for n, value in state_dict(Network(modules[component]).module(merged)).items():
            known = fused[n] if n in fused else fused[n.removeprefix("text_model.")]
            assert relative_error(value, known.numpy()) < 1e-5, n


def test_what_a_single_file_cannot_say_is_named():
    def lines(config, **more):
        configs = UNetConfig.from_dict(json.loads(json.dumps(config))), VAEConfig(**FULL_VAE, **more)
        unet, vae = (SimpleNamespace(config=each) for each in configs)
        return unstated_settings({"unet": unet, "vae": vae})

    for name, config in FULL.items():
        assert lines(config, scaling_factor=0.13025 if name == "sdxl" else 0.18215) == []
    assert lines(PUBLISHED["small-sd"][0]) == ["unet layers_per_block=1 (A1111 builds 2)"]
    assert lines(PUBLISHED["tiny-sd"][0])[0].startswith("unet mid_block_type=None (A1111 builds")
    ssd = lines(PUBLISHED["ssd-1b"][0], scaling_factor=0.13025)
    assert [line.split("=")[0] for line in ssd] == [
        "unet mid_block_type",
        "unet reverse_transformer_layers_per_block",
    ]
    odd = {**FULL["sd2"], "attention_head_dim": 8, "norm_eps": 1e-6, "freq_shift": 1}
    assert lines(odd, shift_factor=0.1) == [
        "unet freq_shift=1 (0 is assumed)",
        "unet norm_eps=1e-06 (1e-05 is assumed)",
        "unet attention_head_dim=[8, 8, 8, 8] ([5, 10, 20, 20] heads are assumed)",
        "vae shift_factor=0.1 (None is assumed)",
    ]


@pytest.mark.parametrize("name", quickly(DISTILLED, ["bk-sdm-tiny", "vega"]))
def test_every_group_of_parameters_is_found(name):
    module = abstract(DISTILLED[name])
    parameters = {n: np.empty(s) for n, s in tensor_names(module).items()}
    for group in GROUPS:
        selection = select(parameters, group)
        assert selection.names
        if "mid_block_type" in DISTILLED[name] and group != "full":
            assert not [n for n in selection.names if n.startswith("mid_block")]
