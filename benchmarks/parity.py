"""The published models at full size, with random weights: this library beside PyTorch, one model at a time.

    python -m benchmarks.parity [--models "SD 1.4 UNet" ...] [--again]

For each model a PyTorch process (diffusers or transformers) fills the network of the published configuration
with random weights, writes them as safetensors, and writes what it gives for random inputs, in float32 and in
bfloat16. Then a JAX process loads the directory and is compared with it: in float32; with
bfloat16 compute; and with bfloat16 weights as well. The two never run at once, since the largest model takes
10 GB, and so their speeds are not compared here.

Results are kept by model in `benchmarks/results/parity.json`, and as a table in `parity.md` beside it; what
is there is not measured again unless told so. Errors are relative: max |ours - theirs| / max |theirs|.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from benchmarks.tables import write_table
from fdiv_jax.files import JsonMapping, JsonObject

CONFIGURATIONS = Path(__file__).parents[1] / "tests" / "pipeline" / "data"


@dataclasses.dataclass(frozen=True)
class Case:
    """A model and its inputs."""

    file: str
    """Of the published configurations."""
    part: str
    size: int = 0
    """Side of a UNet's latents, or of an autoencoder's images, in pixels of theirs; 0: the model's own."""

    @property
    def config(self) -> JsonObject:
        """The published configuration."""
        return json.loads((CONFIGURATIONS / f"{self.file}.json").read_text())[self.part]

    @property
    def what(self) -> str:
        """The inputs, for the table."""
        if self.part == "unet":
            return f"1 x {self.size} x {self.size} latents"
        if self.part == "vae":
            return f"encode and decode, 1 x {self.size} px"
        return "2 prompts and 2 images" if self.part == "model" else "2 prompts"


CASES = {
    "CLIP ViT-B/32": Case("clip-vit-base-patch32", "model"),
    "CLIP ViT-L/14": Case("clip-vit-large-patch14", "model"),
    "SD 1.4 text": Case("stable-diffusion-1-4", "text_encoder"),
    "SD 2.1 text": Case("stable-diffusion-2-1", "text_encoder"),
    "SDXL text 2": Case("stable-diffusion-xl-base-1-0", "text_encoder_2"),
    "SD 1.4 VAE": Case("stable-diffusion-1-4", "vae", 256),
    "SDXL VAE": Case("stable-diffusion-xl-base-1-0", "vae", 256),
    "SD 1.4 UNet": Case("stable-diffusion-1-4", "unet", 64),
    "SD 2.1 UNet": Case("stable-diffusion-2-1", "unet", 64),
    "SDXL UNet": Case("stable-diffusion-xl-base-1-0", "unet", 64),
}


def inputs_of(case: Case) -> dict[str, np.ndarray]:
    """Random inputs, images and latents as n h w c."""
    rng, config = np.random.default_rng(0), case.config

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    if case.part == "unet":
        inputs = {
            "latents": normal(1, case.size, case.size, 4),
            "timesteps": np.array([500]),
            "text": normal(1, 77, config["cross_attention_dim"]),
        }
        if config.get("addition_embed_type"):
            width = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
            side = 8.0 * case.size
            sizes = np.array([[side, side, 0, 0, side, side]], np.float32)
            inputs |= {"pooled": normal(1, width), "time_ids": sizes}
        return inputs
    if case.part == "vae":
        return {
            "images": rng.uniform(-1, 1, (1, case.size, case.size, 3)).astype(np.float32),
            "latents": normal(1, case.size // 8, case.size // 8, 4),
        }
    tokens = rng.integers(1, 49405, (2, 77))
    tokens[:, 0] = 49406
    tokens[0, 9:], tokens[1, 60:] = 49407, 49407
    images = {"images": normal(2, 224, 224, 3)} if case.part == "model" else {}
    return {"tokens": tokens, **images}


def torch_side(name: str, to: str) -> None:
    """Write random weights, inputs and outputs to a directory; print what is known on this side."""
    import diffusers
    import torch
    import transformers

    case, directory = CASES[name], Path(to)
    torch.set_num_threads(os.cpu_count() or 1)
    torch.set_grad_enabled(False)
    config = case.config
    if "_class_name" in config:
        model = getattr(diffusers, config["_class_name"]).from_config(config)
    else:
        kind = getattr(transformers, config["architectures"][0])
        model = kind(kind.config_class.from_dict(config)).float()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
        elif parameter.ndim == 1:
            parameter.normal_(mean=float(name.endswith("weight")), std=0.1, generator=generator)
    model.eval().save_pretrained(directory, max_shard_size="2GB")
    inputs = inputs_of(case)
    np.savez(directory / "inputs.npz", **inputs)

    def run(dtype: torch.dtype) -> dict[str, np.ndarray]:
        given = {
            name: torch.tensor(value.transpose(0, 3, 1, 2).copy() if value.ndim == 4 else value)
            for name, value in inputs.items()
        }
        given = {name: v.to(dtype) if v.is_floating_point() else v for name, v in given.items()}
        outputs = _theirs(case, model, given)
        return {
            name: value.float().numpy().transpose(0, 2, 3, 1) if value.ndim == 4 else value.float().numpy()
            for name, value in outputs.items()
        }

    outputs = run(torch.float32)
    np.savez(directory / "outputs.npz", **outputs)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    model.to(torch.bfloat16)
    half = run(torch.bfloat16)
    result = {"parameters": parameters, "bfloat16_error": _error(half, outputs)}
    print(json.dumps(result))


def _theirs(case: Case, model: Any, given: JsonMapping) -> JsonObject:
    if case.part == "unet":
        added = {"text_embeds": given["pooled"], "time_ids": given["time_ids"]} if "pooled" in given else None
        output = model(given["latents"], given["timesteps"], given["text"], added_cond_kwargs=added)
        return {"output": output.sample}
    if case.part == "vae":
        moments = model.encode(given["images"]).latent_dist
        return {"mean": moments.mean, "images": model.decode(given["latents"]).sample}
    if case.part == "model":
        output = model(input_ids=given["tokens"], pixel_values=given["images"])
        return {"texts": output.text_embeds, "images": output.image_embeds}
    output = model(given["tokens"], output_hidden_states=True)
    pooled = output.text_embeds if case.part == "text_encoder_2" else output.pooler_output
    return {"last": output.last_hidden_state, "penultimate": output.hidden_states[-2], "pooled": pooled}


def jax_side(name: str, to: str) -> None:
    """Load and compare; print what is known on this side."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from fdiv_jax import nn
    from fdiv_jax.checkpoints import load_component

    case, directory = CASES[name], Path(to)
    names = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "model": "CLIPModel"}
    stem = {"text_encoder": "CLIPTextModel", "text_encoder_2": "CLIPTextModelWithProjection"} | names
    kind = getattr(nn, stem[case.part])
    jnp.zeros(1).block_until_ready()
    before = _reset_peak()
    start = time.perf_counter()
    model = load_component(directory, kind).model
    graph, state = nnx.split(model)
    del model
    weights = sum(leaf.nbytes for leaf in jax.block_until_ready(jax.tree.leaves(state)))
    result: JsonObject = {
        "load_seconds": time.perf_counter() - start,
        "load_peak_over_weights": (_memory("VmHWM") - before) / weights,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state)),
    }
    with np.load(directory / "inputs.npz") as stored:
        inputs = {name: jnp.asarray(stored[name]) for name in stored}
    with np.load(directory / "outputs.npz") as stored:
        expected = dict(stored)

    def run(graph: nnx.GraphDef, state: nnx.State) -> Callable[[], JsonObject]:
        compiled = jax.jit(lambda state, inputs: _ours(case, nnx.merge(graph, state), inputs))
        compiled = compiled.lower(state, inputs).compile()
        return lambda: jax.block_until_ready(compiled(state, inputs))

    start = time.perf_counter()
    step = run(graph, state)
    result["compile_seconds"] = time.perf_counter() - start
    before = _reset_peak()
    result["float32_error"] = _error(step(), expected)
    result["step_peak_over_weights"] = 1 + (_memory("VmHWM") - before) / weights
    del step

    config = json.loads((directory / "config.json").read_text())
    graph = nnx.split(nn.abstract_network(kind, config, dtype=jnp.bfloat16))[0]
    result["bfloat16_error"] = _error(run(graph, state)(), expected)
    leaves, treedef = jax.tree.flatten(state)
    del state
    for i in range(len(leaves)):
        leaves[i] = leaves[i].astype(jnp.bfloat16)
    state = jax.tree.unflatten(treedef, leaves)
    result["bfloat16_weights_error"] = _error(run(graph, state)(), expected)
    print(json.dumps(result))


def _ours(case: Case, model: Any, given: JsonMapping) -> JsonObject:
    from fdiv_jax.nn import TextConditioning

    if case.part == "unet":
        text = given["text"]
        if "pooled" in given:
            text = TextConditioning(text, given["pooled"], given["time_ids"])
        return {"output": model(given["latents"], given["timesteps"], text)}
    if case.part == "vae":
        return {"mean": model.encode(given["images"])[0], "images": model.decode(given["latents"])}
    if case.part == "model":
        return {"texts": model.embed_texts(given["tokens"]), "images": model.embed_images(given["images"])}
    features = model.features(given["tokens"])
    return {"last": features.last, "penultimate": features.hidden[-2], "pooled": features.pooled}


def _error(ours: JsonMapping, theirs: Mapping[str, np.ndarray]) -> float:
    """The largest of the outputs' relative errors."""
    if set(ours) != set(theirs):
        raise ValueError(f"outputs {sorted(ours)}, expected {sorted(theirs)}")
    errors = []
    for name, value in theirs.items():
        if not np.isfinite(value).all() or np.shape(ours[name]) != value.shape:
            raise ValueError(f"{name} of shape {np.shape(ours[name])}, expected finite {value.shape}")
        errors.append(float(np.abs(np.asarray(ours[name], np.float64) - value).max() / np.abs(value).max()))
    return max(errors)


def _memory(field: Literal["VmRSS", "VmHWM"]) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def _reset_peak() -> int:
    """Start the high-water mark anew; the memory of now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Settings of the benchmark."""

    models: tuple[str, ...] = tuple(CASES)
    again: bool = False
    """Measure models anew whose result is there."""
    output: Path = Path("benchmarks/results/parity.json")


def measure(name: str) -> JsonObject:
    """One model, in two processes; or why it could not be done."""
    with tempfile.TemporaryDirectory(prefix="parity-") as directory:
        sides = {}
        for side in ("torch_side", "jax_side"):
            code = f"import sys; from benchmarks import parity; parity.{side}(*sys.argv[1:])"
            run = subprocess.run(
                [sys.executable, "-c", code, name, directory],
                stdout=subprocess.PIPE,
                text=True,
                check=False,
            )
            if run.returncode:
                return {"failed": f"{side} ended with {run.returncode}"}
            sides[side.removesuffix("_side")] = json.loads(run.stdout.splitlines()[-1])
    if sides["torch"]["parameters"] != sides["jax"].pop("parameters"):
        raise ValueError(f"{name}: the two networks differ in their number of parameters")
    return {"inputs": CASES[name].what, **sides}


def table(results: JsonMapping) -> str:
    """The results in Markdown."""
    head = (
        "model",
        "parameters",
        "inputs",
        "float32 error",
        "bfloat16 compute",
        "bfloat16 weights too",
        "PyTorch, all bfloat16",
        "load, s",
        "load peak / weights",
        "step peak / weights",
    )
    rows = [head, ("---",) * len(head)]
    for name in (name for name in CASES if name in results):
        result = results[name]
        if "failed" in result:
            rows.append((name, result["failed"], *[""] * (len(head) - 2)))
            continue
        ours, theirs = result["jax"], result["torch"]
        rows.append(
            (
                name,
                f"{theirs['parameters']:,}",
                result["inputs"],
                f"{ours['float32_error']:.1e}",
                f"{ours['bfloat16_error']:.1e}",
                f"{ours['bfloat16_weights_error']:.1e}",
                f"{theirs['bfloat16_error']:.1e}",
                f"{ours['load_seconds']:.1f}",
                f"{ours['load_peak_over_weights']:.2f}",
                f"{ours['step_peak_over_weights']:.2f}",
            )
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def main(config: BenchmarkConfig) -> None:
    """Measure what is not there yet, keeping each result as it comes."""
    unknown = sorted(set(config.models) - set(CASES))
    if unknown:
        raise ValueError(f"models {unknown}, expected some of {list(CASES)}")
    results = json.loads(config.output.read_text()) if config.output.is_file() else {}
    for name in config.models:
        if name in results and "failed" not in results[name] and not config.again:
            continue
        free = shutil.disk_usage(tempfile.gettempdir()).free
        if free < 15e9:
            raise OSError(f"{free / 1e9:.0f} GB free for temporary files, expected 15 GB")
        results[name] = measure(name)
        write_table(config.output, results, table(results))
        print(table({name: results[name]}).splitlines()[-1], flush=True)


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
