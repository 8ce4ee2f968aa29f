"""LoRA files as training scripts write them and have written them: read as diffusers and PEFT read them."""

import copy
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fdiv_jax.checkpoints import load_lora, state_dict
from fdiv_jax.nn.lora import merge_lora
from fdiv_jax.unlearning import Network
from tests.nn.helpers import relative_error

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.interop

ATTENTION = ["to_k", "to_q", "to_v", "to_out.0"]
MORE = [*ATTENTION, "proj_in", "ff.net.0.proj", "conv1", "conv_shortcut", "time_emb_proj"]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """family -> (diffusers' pipeline, our modules of the same weights)."""
    from tests.checkpoints.torch_pipelines import our_modules, torch_pipeline

    made = {}

    def get(family):
        if family not in made:
            pipe = torch_pipeline(family)
            made[family] = pipe, our_modules(pipe, tmp_path_factory.mktemp(family))
        return copy.deepcopy(made[family][0]), made[family][1]

    return get


def adapted(pipe, *, unet=ATTENTION, text=TEXT, seed=0, **options):
    """The pipeline with random adapters of PEFT; {component: PEFT's state dict}."""
    options = {"r": 2, "lora_alpha": 3, "init_lora_weights": False, **options}
    states = {}
    for component, names in {"unet": unet, "text_encoder": text, "text_encoder_2": text}.items():
        model = getattr(pipe, component, None)
        if model is None or not names:
            continue
        model.add_adapter(peft.LoraConfig(target_modules=names, **options), "default")
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in model.named_parameters():
            if "lora_" in name and "magnitude" not in name:
                parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
            elif "magnitude" in name:
                parameter.data *= 1 + 0.3 * torch.randn(parameter.shape, generator=generator)
        states[component] = {
            name: value.detach().contiguous()
            for name, value in peft.get_peft_model_state_dict(model, adapter_name="default").items()
        }
    return states


def write(tensors, path, **header):
    save_file({name: np.asarray(value) for name, value in tensors.items()}, path, metadata=header or None)
    return path


def fused(pipe, scale=1.0, components=("unet", "text_encoder", "text_encoder_2")):
    """The weights with the adapters fused, by component."""
    found = {}
    for component in components:
        model = getattr(pipe, component, None)
        if model is not None:
            for module in model.modules():
                if isinstance(module, peft.tuners.tuners_utils.BaseTunerLayer):
                    module.scale_layer(scale)
                    module.merge()
            found[component] = {
                name.replace(".base_layer", ""): value.detach().numpy()
                for name, value in model.state_dict().items()
                if "lora_" not in name
            }
    return found


def assert_same_change(file, modules, theirs, changed, strength=1.0):
    """Our merged weights are theirs, in all components; and as many layers change as should."""
    loras = load_lora(file, modules)
    assert {component: len(lora.targets) for component, lora in loras.items()} == changed
    for component, expected in theirs.items():
        module = modules[component]
        if component in loras:
            merged = merge_lora(Network.parameters(module), loras[component], strength=strength)
            module = Network(module).module(merged)
        before = state_dict(modules[component])
        differing = 0
        for name, value in state_dict(module).items():
            known = expected[name] if name in expected else expected[name.removeprefix("text_model.")]
            assert relative_error(value, known) < 1e-5, name
            differing += not np.array_equal(known, before[name])
        assert differing == changed.get(component, 0)


def counted(states):
    return {
        component: sum("lora_A" in name for name in state) for component, state in states.items() if state
    }


def as_scripts_write(states):
    """By diffusers' own converter, as the training scripts call it before save_lora_weights."""
    return {name: diffusers.utils.convert_state_dict_to_diffusers(state) for name, state in states.items()}


@pytest.mark.parametrize(
    ("family", "scale"), [("sd1", 1.0), ("sd2", 0.7), pytest.param("sdxl", -0.5, marks=pytest.mark.slow)]
)
def test_what_the_training_scripts_of_today_write(family, scale, models, tmp_path):
    pipe, modules = models(family)
    states = adapted(pipe)
    keys = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "use_rslora")
    metadata = {
        f"{component}_lora_adapter_metadata": {
            key: sorted(value) if isinstance(value, set) else value
            for key, value in getattr(pipe, component).peft_config["default"].to_dict().items()
            if key in keys
        }
        for component in states
    }
    layers = {f"{name}_lora_layers": state for name, state in as_scripts_write(states).items()}
    type(pipe).save_lora_weights(tmp_path, **layers, **metadata)
    names = set(load_file(tmp_path / "pytorch_lora_weights.safetensors"))
    assert any(name.endswith("to_out.0.lora.down.weight") for name in names)
    assert any(name.endswith("q_proj.lora_linear_layer.up.weight") for name in names)
    fresh, _ = models(family)
    fresh.load_lora_weights(str(tmp_path), weight_name="pytorch_lora_weights.safetensors")
    assert_same_change(tmp_path, modules, fused(fresh, scale), counted(states), scale)


def old_names(states):
    """As diffusers' scripts wrote them in 2023: attention processors, and their names in text encoders."""
    tensors = {}
    for component, state in states.items():
        for name, value in state.items():
            layer, _, half = name.removesuffix(".weight").rpartition(".")
            way = {"lora_A": "down", "lora_B": "up"}[half]
            head, _, last = layer.removesuffix(".0").rpartition(".")
            inner = f"to_{last.removeprefix('to_').removesuffix('_proj')}_lora"
            middle = ".processor" if component == "unet" else ""
            tensors[f"{component}.{head}{middle}.{inner}.{way}.weight"] = value
    return tensors


def test_attention_processors_of_2023(models, tmp_path):
    pipe, modules = models("sd1")
    states = adapted(pipe)
    tensors = old_names(states)
    assert any(".attn2.processor.to_out_lora.down.weight" in name for name in tensors)
    assert any(".self_attn.to_q_lora.up.weight" in name for name in tensors)
    file = write(tensors, tmp_path / "old.safetensors")
    fresh, _ = models("sd1")
    fresh.load_lora_weights(str(file))
    assert_same_change(file, modules, fused(fresh), counted(states))

    # the first scripts trained the UNet alone and did not name it
    alone = {n.removeprefix("unet."): v for n, v in tensors.items() if n.startswith("unet.")}
    file = write(alone, tmp_path / "first.safetensors")
    fresh, _ = models("sd1")
    fresh.unet.load_lora_adapter(dict(alone), prefix=None)
    assert_same_change(file, modules, fused(fresh), {"unet": counted(states)["unet"]})


def test_names_of_both_kinds_in_one_file(models, tmp_path):
    """The converter renames attention alone; other layers keep PEFT's names."""
    pipe, modules = models("sd1")
    states = adapted(pipe, unet=MORE, text=[*TEXT, "fc1"], lora_alpha=2)  # diffusers reads no such file
    tensors = {
        f"{component}.{name}": value
        for component, state in as_scripts_write(states).items()
        for name, value in state.items()
    }
    assert any(name.endswith("conv1.lora_A.weight") for name in tensors)
    assert any(name.endswith("to_q.lora.down.weight") for name in tensors)
    assert any(name.endswith("fc1.lora_A.weight") for name in tensors)
    file = write(tensors, tmp_path / "mixed.safetensors")
    assert_same_change(file, modules, fused(pipe), counted(states))


@pytest.mark.parametrize("component", ["unet", "text_encoder"])
def test_an_adapter_that_peft_saved(component, models, tmp_path):
    pipe, modules = models("sd1")
    one = {"unet": "attn2.to_k", "text_encoder": r"layers\.1.*v_proj"}[component]
    patterns = {"rank_pattern": {one.rpartition(".")[2].lstrip("*"): 3}, "alpha_pattern": {one: 1}}
    config = peft.LoraConfig(
        r=2,
        lora_alpha=5,
        target_modules=MORE if component == "unet" else TEXT,
        init_lora_weights=False,
        **patterns,
    )
    wrapped = peft.get_peft_model(getattr(pipe, component), config)
    wrapped.save_pretrained(tmp_path)
    names = load_file(tmp_path / "adapter_model.safetensors")
    assert all(name.startswith("base_model.model.") for name in names)
    count = {component: sum("lora_A" in name for name in names)}
    merged = {name: value.detach().numpy() for name, value in wrapped.merge_and_unload().state_dict().items()}
    assert_same_change(tmp_path, modules, {component: merged}, count)

    # the same tensors as the scripts of latent consistency models keep them, behind the component's name, and
    # as a state dict that still has the adapter's name; without the configuration alpha is the rank
    short = {name.removeprefix("base_model.model."): value for name, value in names.items()}
    files = [
        write({f"{component}.{name}": value for name, value in names.items()}, tmp_path / "lcm.safetensors"),
        write(
            {f"{component}.{n.replace('.weight', '.default.weight')}": v for n, v in short.items()},
            tmp_path / "default.safetensors",
        ),
    ]
    for file in files:
        lora = load_lora(file, modules)[component]
        assert {lora.scale(target) for target in lora.targets} == {1.0}
        assert len(lora.targets) == count[component]


def kohya_names(states, config=None):
    from fdiv_jax.checkpoints.original_names import unet_original_name

    prefixes = {"unet": "lora_unet_", "text_encoder": "lora_te_", "text_encoder_2": "lora_te2_"}
    if "text_encoder_2" in states:
        prefixes["text_encoder"] = "lora_te1_"
    tensors = {}
    for component, state in states.items():
        for name, value in state.items():
            layer, _, half = name.removesuffix(".weight").rpartition(".")
            if component != "unet":
                layer = f"text_model.{layer.removeprefix('text_model.')}"
            elif config is not None:
                layer = unet_original_name(config)(layer)
            part = {"lora_A": "lora_down.weight", "lora_B": "lora_up.weight"}.get(half, "dora_scale")
            if part == "dora_scale":  # (out,) or (1, out, 1, 1)
                value = value.reshape(-1, *[1] * max(1, value.ndim - 1))
            tensors[f"{prefixes[component]}{layer.replace('.', '_')}.{part}"] = value.contiguous()
    return tensors


@pytest.mark.parametrize("family", ["sd1", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_kohya_with_convolutions_and_an_alpha(family, models, tmp_path):
    pipe, modules = models(family)
    states = adapted(pipe, unet=MORE, text=[*TEXT, "fc1", "fc2"])
    tensors = kohya_names(states, modules["unet"].config if family == "sdxl" else None)
    downs = [name for name in tensors if name.endswith("lora_down.weight")]
    tensors |= {name.replace("lora_down.weight", "alpha"): torch.tensor(0.5) for name in downs}
    shapes = {tuple(tensors[name].shape[2:]) for name in downs}
    assert shapes == {(), (1, 1), (3, 3)}
    file = write(tensors, tmp_path / "kohya.safetensors")
    fresh, _ = models(family)
    fresh.load_lora_weights(str(file))
    assert_same_change(file, modules, fused(fresh, 0.8), counted(states), 0.8)


@pytest.mark.slow
def test_diffusers_dora(models, tmp_path):
    pipe, modules = models("sd1")
    states = adapted(pipe, unet=MORE, use_dora=True)
    tensors = {f"{c}.{name}": value for c, state in states.items() for name, value in state.items()}
    assert tensors["unet.mid_block.resnets.0.conv1.lora_magnitude_vector"].shape == (1, 16, 1, 1)
    header = {f"{c}.{key}": value for c in states for key, value in (("lora_alpha", 3), ("use_dora", True))}
    file = write(tensors, tmp_path / "dora.safetensors", lora_adapter_metadata=json.dumps(header))
    assert_same_change(file, modules, fused(pipe, 0.6), counted(states), 0.6)


@pytest.mark.slow
def test_kohya_dora(models, tmp_path):
    """diffusers 0.42.1 leaves the magnitudes of such a file out; PEFT's DoRA is the oracle."""
    pipe, modules = models("sd1")
    states = adapted(pipe, unet=MORE, text=[*TEXT, "fc1"], use_dora=True)
    tensors = kohya_names(states)
    downs = [name for name in tensors if name.endswith("lora_down.weight")]
    tensors |= {name.replace("lora_down.weight", "alpha"): torch.tensor(3.0) for name in downs}
    assert {tensors[name.replace("lora_down.weight", "dora_scale")].ndim for name in downs} == {2, 4}
    file = write(tensors, tmp_path / "dora.safetensors")
    assert_same_change(file, modules, fused(pipe), counted(states))


def test_lycoris_dora_with_a_magnitude_for_each_input(models, tmp_path):
    _, modules = models("sd1")
    rng = np.random.default_rng(0)
    tensors, expected = {}, {}
    for layer in ("mid_block.resnets.0.conv1", "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"):
        weight = state_dict(modules["unet"])[f"{layer}.weight"].astype(np.float64)
        outputs, inputs, *sides = weight.shape
        down = rng.standard_normal((2, inputs, *sides)).astype(np.float32)
        up = rng.standard_normal((outputs, 2, *(1 for _ in sides))).astype(np.float32)
        scale = rng.uniform(0.5, 2, (1, inputs, *(1 for _ in sides))).astype(np.float32)
        stem = f"lora_unet_{layer.replace('.', '_')}"
        tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
        tensors |= {f"{stem}.dora_scale": scale, f"{stem}.alpha": np.float32(1.0)}
        change = (up.reshape(outputs, 2) @ down.reshape(2, -1)).reshape(weight.shape)
        moved = weight + 0.5 * change
        axes = (0, *range(2, weight.ndim))
        expected[layer] = scale * moved / np.sqrt((moved**2).sum(axis=axes, keepdims=True))
    loras = load_lora(write(tensors, tmp_path / "dora.safetensors"), modules)
    merged = Network(modules["unet"]).module(merge_lora(Network.parameters(modules["unet"]), loras["unet"]))
    for layer, value in expected.items():
        assert relative_error(state_dict(merged)[f"{layer}.weight"], value) < 1e-5
