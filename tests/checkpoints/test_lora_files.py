"""LoRA files: diffusers loads both layouts and computes what our merged weights give."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from fdiv_jax.checkpoints import load_lora, save_lora, state_dict
from fdiv_jax.nn.lora import Lora, init_lora, merge_lora
from fdiv_jax.unlearning import Network
from tests.nn.helpers import TOLERANCE, relative_error
from tests.tiny import tiny_pipeline

EVERY_BLOCK = (".attentions.", ".resnets.", ".downsamplers.", ".upsamplers.", ".encoder.", "projection")


def drawn_lora(module, rank, alpha, seed=0, containing=EVERY_BLOCK):
    """Random factors for every kernel whose name holds one of `containing`."""
    parameters = Network.parameters(module)
    names = [n for n in parameters if n.endswith(".kernel") and any(part in f".{n}" for part in containing)]
    rng = np.random.default_rng(seed)
    lora = init_lora(parameters, names, rank=rank, alpha=alpha, key=jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(0.2 * rng.standard_normal(x.shape), jnp.float32), lora)


def merged(module, lora):
    return Network(module).module(merge_lora(Network.parameters(module), lora))


def same(a, b):
    return a.alpha == b.alpha and all(
        np.array_equal(a.factors[n], b.factors[n]) for n in a.factors | b.factors
    )


@pytest.fixture(scope="module")
def tiny():
    pipe = tiny_pipeline()
    return {"unet": pipe.unet, "text_encoder": pipe.text_encoder}


@pytest.fixture(scope="module")
def loras(tiny):
    return {name: drawn_lora(module, 2, 3.0) for name, module in tiny.items()}


@pytest.mark.interop
@pytest.mark.parametrize(
    ("family", "layout", "rank"),
    [
        pytest.param("sd1", "diffusers", 1, marks=pytest.mark.slow),
        pytest.param("sd1", "kohya", 3, marks=pytest.mark.slow),
        pytest.param("sd2", "kohya", 5, marks=pytest.mark.slow),
        pytest.param("sdxl", "diffusers", 8, marks=pytest.mark.slow),
        pytest.param("sdxl", "kohya", 4, marks=pytest.mark.slow),
    ],
)
def test_diffusers_computes_what_merged_weights_give(family, layout, rank, tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("peft")
    from tests.checkpoints.torch_pipelines import our_modules, torch_pipeline

    pipe, reference = torch_pipeline(family), torch_pipeline(family)
    modules = our_modules(pipe, tmp_path)
    parts = [name for name in modules if name != "vae"]
    loras = {
        name: drawn_lora(modules[name], rank, rank + 2.5, seed) for seed, name in enumerate(parts, start=1)
    }
    for name in parts:
        model = getattr(reference, name)
        known = model.state_dict()
        tensors = state_dict(merged(modules[name], loras[name])).items()
        model.load_state_dict(
            {n if n in known else n.removeprefix("text_model."): torch.tensor(value) for n, value in tensors}
        )
    tokens = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])

    def run(pipe):
        generator = torch.Generator().manual_seed(0)
        latents, time = torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([7, 500])
        text = torch.randn(2, 5, pipe.unet.config.cross_attention_dim, generator=generator)
        more = {"text_embeds": torch.randn(2, 10, generator=generator), "time_ids": torch.ones(2, 6)}
        with torch.no_grad():
            outputs = {"unet": pipe.unet(latents, time, text, added_cond_kwargs=more).sample}
            for name in parts[1:]:
                outputs[name] = getattr(pipe, name)(tokens)[0]
        return {name: output.numpy() for name, output in outputs.items()}

    plain = run(pipe)
    file = save_lora(
        tmp_path / "pytorch_lora_weights.safetensors",
        loras,
        layout=layout,
        unet_config=modules["unet"].config,
    )
    pipe.load_lora_weights(str(file))
    ours, theirs = run(reference), run(pipe)
    assert set(ours) == set(parts)
    for name in parts:
        assert relative_error(plain[name], theirs[name]) > 0.05, name
        assert relative_error(ours[name], theirs[name]) < TOLERANCE, name
    back = load_lora(file, modules)
    assert set(back) == set(loras)
    assert all(same(back[name], loras[name]) for name in loras)


@pytest.mark.interop
@pytest.mark.slow
def test_alphas_and_ranks_that_differ_by_layer_reach_diffusers(tmp_path):
    pytest.importorskip("peft")
    from tests.checkpoints.torch_pipelines import our_modules, torch_pipeline

    pipe = torch_pipeline("sd1")
    modules = our_modules(pipe, tmp_path)
    one = drawn_lora(modules["unet"], 2, 5.0, containing=(".attn1.to_q",))
    two = drawn_lora(modules["unet"], 3, 1.0, containing=(".attn2.to_q", ".conv1"))
    lora = Lora(one.factors | two.factors, one.alpha | two.alpha)
    file = save_lora(tmp_path / "lora.safetensors", {"unet": lora})
    pipe.load_lora_weights(str(file))
    pipe.fuse_lora(components=["unet"])
    theirs = {name.replace(".base_layer", ""): value for name, value in pipe.unet.state_dict().items()}
    for name, value in state_dict(merged(modules["unet"], lora)).items():
        assert relative_error(value, theirs[name].numpy()) < 1e-5, name
    assert same(load_lora(file, modules)["unet"], lora)


@pytest.mark.interop
@pytest.mark.slow
def test_ranks_that_differ_by_layer_reach_diffusers_from_kohyas_layout(tmp_path):
    """As `export` writes them for layers of lower ranks: with one alpha."""
    pytest.importorskip("peft")
    from tests.checkpoints.torch_pipelines import our_modules, torch_pipeline

    pipe = torch_pipeline("sd1")
    modules = our_modules(pipe, tmp_path)
    one = drawn_lora(modules["unet"], 2, 5.0, containing=(".attn1.to_q", ".conv1"))
    two = drawn_lora(modules["unet"], 3, 5.0, containing=(".attn2.to_q", ".conv2"))
    lora = Lora(one.factors | two.factors, one.alpha | two.alpha)
    text = drawn_lora(modules["text_encoder"], 2, 5.0, containing=(".fc1", "_proj"))
    loras = {"unet": lora, "text_encoder": text}
    options = {"layout": "kohya", "unet_config": modules["unet"].config}
    pipe.load_lora_weights(str(save_lora(tmp_path / "lora.safetensors", loras, **options)))
    pipe.fuse_lora(components=["unet", "text_encoder"])
    for component, own in loras.items():
        fused = getattr(pipe, component).state_dict()
        theirs = {name.replace(".base_layer", ""): value for name, value in fused.items()}
        for name, value in state_dict(merged(modules[component], own)).items():
            known = theirs[name] if name in theirs else theirs[name.removeprefix("text_model.")]
            assert relative_error(value, known.numpy()) < 1e-5, name


def test_names_are_those_of_each_layout(tiny, loras, tmp_path):
    config = tiny["unet"].config
    save_lora(tmp_path / "a.safetensors", loras)
    names = load_file(tmp_path / "a.safetensors")
    stem = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    assert names[f"{stem}.lora_A.weight"].shape == (2, 8)
    assert names[f"{stem}.lora_B.weight"].shape == (8, 2)
    assert names["unet.down_blocks.0.resnets.0.conv1.lora_A.weight"].shape == (2, 8, 3, 3)
    assert names["unet.down_blocks.0.resnets.0.conv1.lora_B.weight"].shape == (8, 2, 1, 1)
    assert "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.down.weight" in names

    save_lora(tmp_path / "b.safetensors", loras, layout="kohya", unet_config=config, dtype="float16")
    names = load_file(tmp_path / "b.safetensors")
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    assert names[f"{stem}.lora_down.weight"].shape == (2, 8)
    assert names[f"{stem}.lora_up.weight"].dtype == np.float16
    assert names[f"{stem}.alpha"] == 3.0
    assert "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight" in names
    with safe_open(tmp_path / "b.safetensors", framework="np") as file:
        header = file.metadata()
    assert (header["ss_network_dim"], header["ss_base_model_version"]) == ("2", "sd_v1")


@pytest.mark.slow
@pytest.mark.interop
def test_xl_bears_the_original_names_and_both_are_read(tmp_path):
    pytest.importorskip("torch")
    from tests.checkpoints.torch_pipelines import our_modules, torch_pipeline

    modules = our_modules(torch_pipeline("sdxl"), tmp_path)
    loras = {name: drawn_lora(modules[name], 2, 1.0) for name in ("unet", "text_encoder", "text_encoder_2")}
    path = tmp_path / "xl.safetensors"
    save_lora(path, loras, layout="kohya", unet_config=modules["unet"].config)
    tensors = load_file(path)
    # levels of 2 residual blocks: 0 without transformers (1, 2, halving 3), 1 with them (4, 5)
    for name in (
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight",
        "lora_unet_input_blocks_3_0_op.alpha",
        "lora_unet_middle_block_1_proj_in.lora_up.weight",
        "lora_unet_output_blocks_2_2_conv.lora_up.weight",
        "lora_unet_output_blocks_5_0_skip_connection.lora_up.weight",
        "lora_te1_text_model_encoder_layers_1_mlp_fc2.alpha",
        "lora_te2_text_model_encoder_layers_1_self_attn_out_proj.alpha",
        "lora_te2_text_projection.lora_down.weight",
    ):
        assert name in tensors
    with safe_open(path, framework="np") as file:
        assert file.metadata()["ss_base_model_version"] == "sdxl_base_v1-0"

    plain = {
        f"lora_unet_{target.replace('.', '_')}.{part}": factor
        for target in loras["unet"].targets
        for part, factor in (("alpha", np.float32(1)), *_weights(loras["unet"], target))
    }
    save_file({name: np.asarray(value) for name, value in plain.items()}, tmp_path / "plain.safetensors")
    assert same(load_lora(tmp_path / "plain.safetensors", modules)["unet"], loras["unet"])


@pytest.mark.interop
def test_what_diffusers_writes_for_kohya_is_read(tmp_path):
    """With whole numbers for alphas, and text towers named as in transformers 5."""
    pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    from diffusers.utils import convert_state_dict_to_kohya
    from safetensors.torch import save_file as save_torch_file

    from tests.checkpoints.torch_pipelines import our_modules, torch_pipeline

    pipe = torch_pipeline("sdxl")
    modules = our_modules(pipe, tmp_path)
    targets = {"unet": ["to_k", "conv1", "proj_in"], "text_encoder": ["fc1"], "text_encoder_2": ["q_proj"]}
    theirs = {}
    for component, names in targets.items():
        model = getattr(pipe, component)
        model.add_adapter(peft.LoraConfig(r=3, lora_alpha=3, target_modules=names, init_lora_weights=False))
        state = peft.get_peft_model_state_dict(model, adapter_name="default")
        theirs |= {f"{component}.{name}": value.contiguous() for name, value in state.items()}
    path = tmp_path / "kohya.safetensors"
    save_torch_file({n: v.contiguous() for n, v in convert_state_dict_to_kohya(theirs).items()}, path)
    ours = load_lora(path, modules)
    assert set(ours) == set(targets)
    assert 2 * sum(len(lora.targets) for lora in ours.values()) == len(theirs)
    for component, lora in ours.items():
        assert set(lora.alpha.values()) == {3.0}
        for target in lora.targets:
            for (_, found), half in zip(_weights(lora, target), ("lora_A", "lora_B"), strict=True):
                short = target if component == "unet" else target.removeprefix("text_model.")
                name = f"{component}.{target}.{half}.weight"
                expected = theirs.get(name, theirs.get(f"{component}.{short}.{half}.weight"))
                np.testing.assert_array_equal(found, expected.detach().numpy())


def _weights(lora, target):
    down, up = (np.asarray(factor) for factor in lora.pair(target))
    axes = (1, 0) if down.ndim == 2 else (3, 2, 0, 1)
    return [
        (part, np.ascontiguousarray(factor.transpose(axes)))
        for part, factor in (("lora_down.weight", down), ("lora_up.weight", up))
    ]


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_round_trip_rounds_to_the_dtype_alone(layout, dtype, tiny, loras, tmp_path):
    path = tmp_path / "a.safetensors"
    save_lora(path, loras, layout=layout, unet_config=tiny["unet"].config, dtype=dtype)
    back = load_lora(path, tiny)
    for name, lora in loras.items():
        rounded = jax.tree.map(lambda x: np.asarray(x).astype(dtype).astype(np.float32), lora)
        assert same(back[name], rounded)


def test_a_linear_layer_may_be_stored_as_a_convolution(tiny, loras, tmp_path):
    path = tmp_path / "a.safetensors"
    save_lora(path, loras, layout="kohya", unet_config=tiny["unet"].config)
    tensors = {n: v[:, :, None, None] if v.ndim == 2 else v for n, v in load_file(path).items()}
    save_file(tensors, path)
    assert same(load_lora(path, tiny)["unet"], loras["unet"])


def test_without_an_alpha_the_scale_is_one(tiny, loras, tmp_path):
    for layout in ("diffusers", "kohya"):
        path = tmp_path / f"{layout}.safetensors"
        save_lora(path, loras, layout=layout, unet_config=tiny["unet"].config)
        save_file({n: v for n, v in load_file(path).items() if not n.endswith("alpha")}, path)
        assert set(load_lora(path, tiny)["unet"].alpha.values()) == {2.0}


def test_rank_stabilised_scales_are_read(tiny, loras, tmp_path):
    path = tmp_path / "a.safetensors"
    save_lora(path, loras)
    config = {"unet.lora_alpha": 3.0, "unet.use_rslora": True}
    save_file(load_file(path), path, metadata={"lora_adapter_metadata": json.dumps(config)})
    lora = load_lora(path, tiny)["unet"]
    assert lora.scale(lora.targets[0]) == pytest.approx(3.0 / 2**0.5)


def test_faults_of_a_file_are_named(tiny, loras, tmp_path):
    path = tmp_path / "a.safetensors"
    save_lora(path, loras)
    whole = load_file(path)
    name = "unet.mid_block.resnets.0.conv1.lora_A.weight"

    def fault(change, error, match):
        tensors = dict(whole)
        change(tensors)
        save_file(tensors, path)
        with pytest.raises(error, match=match):
            load_lora(path, tiny)

    fault(lambda t: t.pop(name), ValueError, r"1 without their other half: unet mid_block\.resnets\.0\.conv1")
    fault(
        lambda t: t.update({"unet.nowhere.lora_A.weight": t[name]}),
        ValueError,
        r"of no layer of the model: unet\.nowhere\.lora_A\.weight",
    )
    fault(lambda t: t.update({name: t[name][:0]}), ValueError, r"1 misshapen: .*\(0, 8, 3, 3\)")
    fault(lambda t: t.update({name: np.array(1, np.float32)}), ValueError, r"1 misshapen: .*conv1: \(\) and")
    fault(lambda t: t.clear(), ValueError, "holds no factors, expected those of a LoRA")
    fault(lambda t: t.update({name: t[name][:1]}), ValueError, r"1 misshapen: .*\(1, 8, 3, 3\)")
    magnitude = name.replace("lora_A.weight", "lora_magnitude_vector")
    fault(lambda t: t.update({magnitude: t[name]}), ValueError, r"conv1: magnitudes \(2, 8, 3, 3\) for")
    fault(lambda t: t.update({name: t[name] * np.nan}), ValueError, "conv1.lora_A.weight has values that are")
    other = name.replace("lora_A", "lora.down")
    fault(lambda t: t.update({other: t[name] + 1}), ValueError, "is another down of unet mid_block.resnets.0")
    save_lora(path, loras, layout="kohya", unet_config=tiny["unet"].config, overwrite=True)
    whole = load_file(path)
    alpha = "lora_unet_mid_block_resnets_0_conv1.alpha"
    fault(lambda t: t.update({alpha: np.ones(2)}), ValueError, r"conv1\.alpha of shape \(2,\), expected one")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_lora(tmp_path / "nowhere.safetensors", tiny)
    path.write_bytes(b"no safetensors")
    with pytest.raises(ValueError, match="truncated or not a safetensors file"):
        load_lora(path, tiny)


def test_faults_of_a_call_are_named_and_nothing_is_written(tiny, loras, tmp_path):
    path = tmp_path / "a.safetensors"
    config = tiny["unet"].config

    def refused(match, *, to=path, what=loras, **options):
        with pytest.raises(ValueError, match=match):
            save_lora(to, what, **options)

    refused("components vae, expected", what={"vae": loras["unet"]})
    refused("components none", what={})
    refused("layout 'a1111', expected one of diffusers, kohya", layout="a1111")
    refused("needs unet_config", layout="kohya")
    refused("dtype 'int8'", dtype="int8")
    refused("ends in .safetensors", to=tmp_path / "a.ckpt")
    huge = {"unet": jax.tree.map(lambda x: 1e6 * (1 + abs(x)), loras["unet"])}
    refused("which float16 cannot hold", what=huge, dtype="float16", layout="kohya", unet_config=config)
    assert not list(tmp_path.iterdir())
    save_lora(path, loras)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"a\.safetensors exists"):
        save_lora(path, {"unet": loras["unet"]})
    assert path.read_bytes() == before
    save_lora(path, {"unet": loras["unet"]}, overwrite=True)
    assert set(load_lora(path, tiny)) == {"unet"}
