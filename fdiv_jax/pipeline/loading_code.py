"""The Python that a model card shows: how diffusers and fdiv-jax load a model, a LoRA or a delta."""

from __future__ import annotations

from fdiv_jax.pipeline.shared import FILES, Base, Shared

__all__ = ["loading_code"]

_FOLDER = "folder = Path(here) if Path(here).is_dir() else Path(snapshot_download(here))"
_DELTA = """\
changed = {}
for name, tensor in load_file(folder / "delta.safetensors").items():
    component, _, rest = name.partition(".")
    changed.setdefault(component, {})[rest] = tensor
for component, tensors in changed.items():
    module = getattr(pipe, component)
    if not any(name.startswith("text_model.") for name in module.state_dict()):  # transformers 5
        tensors = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    found = module.load_state_dict(tensors, strict=False)
    assert not found.unexpected_keys, found.unexpected_keys"""


def loading_code(base: Base, shared: Shared) -> str:
    """Markdown with the code for diffusers and the code for fdiv-jax.

    It runs as it stands: anywhere for what was pushed, and in the directory of the card for what was not.
    """
    here = f"here = {shared.place or '.'!r}" + ("" if shared.place else "  # the directory of this card")
    theirs = [*_imports(base, shared), "", here, *_with_diffusers(base, shared)]
    ours = [*_imports_of_ours(shared), "", here, *_with_fdiv_jax(base, shared)]
    blocks = [_block([*theirs, 'image = pipe("a prompt").images[0]']), "With fdiv-jax:", _block(ours)]
    if base.kind in ("directory", "file") and shared.needs_base:
        blocks.append("The base model is not a part of this: put the path of your own copy in its place.")
    if shared.unstated:
        blocks.append(
            f"The file cannot hold these settings, which the base gives: {'; '.join(shared.unstated)}."
        )
    return "\n\n".join(blocks)


def _block(lines: list[str]) -> str:
    return "\n".join(["```python", *lines, "```"])


def _imports(base: Base, shared: Shared) -> list[str]:
    lines = []
    if shared.form != "diffusers":
        lines += ["from pathlib import Path", ""]
    if "param_dtype" in base.loaded_with and shared.needs_base:
        lines += ["import torch"]
    lines += [f"from diffusers import {_class(base, shared)}"]
    if shared.form != "diffusers":
        lines += ["from huggingface_hub import snapshot_download"]
    if shared.form == "delta":
        lines += ["from safetensors.torch import load_file"]
    if base.kind == "world" and shared.needs_base:
        lines += ["", "import fdiv_jax as fj"]
    return lines


def _class(base: Base, shared: Shared) -> str:
    """The class that reads the one file, or the directory."""
    if shared.form == "single-file" or (base.kind == "file" and shared.needs_base):
        return "StableDiffusionXLPipeline" if shared.xl else "StableDiffusionPipeline"
    return "DiffusionPipeline"


def _with_diffusers(base: Base, shared: Shared) -> list[str]:
    if shared.form == "diffusers":
        return ["pipe = DiffusionPipeline.from_pretrained(here)"]
    lines, kind = [_FOLDER], _class(base, shared)
    if base.kind == "world" and shared.needs_base:
        lines += [f"base = fj.load_pipeline({base.name!r}).save({base.name!r}, overwrite=True)"]
    elif shared.needs_base:
        lines += [f"base = {base.name!r}"]
    if shared.form == "single-file":
        config = ", config=str(base)" if shared.unstated else ""
        return [*lines, f"pipe = {kind}.from_single_file(str(folder / {FILES['single-file']!r}){config})"]
    options = {key: repr(base.loaded_with[key]) for key in ("revision", "variant") if key in base.loaded_with}
    if "param_dtype" in base.loaded_with:
        options["torch_dtype"] = f"torch.{base.loaded_with['param_dtype']}"
    given = "".join(f", {key}={value}" for key, value in options.items())
    method = "from_single_file" if base.kind == "file" else "from_pretrained"
    lines += [f"pipe = {kind}.{method}(base{given})"]
    if "vae" in base.loaded_with:
        lines += [f"# the base has another autoencoder, {base.loaded_with['vae']!r}: load it as pipe.vae"]
    for file, strength in base.loras:  # they are a part of the base
        lines += [
            f"pipe.load_lora_weights({file!r})",
            f"pipe.fuse_lora(lora_scale={strength!r})",
            "pipe.unload_lora_weights()",
        ]
    if shared.form == "delta":
        return [*lines, *_DELTA.splitlines()]
    return [*lines, f"pipe.load_lora_weights(str(folder), weight_name={FILES[shared.form]!r})"]


def _imports_of_ours(shared: Shared) -> list[str]:
    lines = [] if shared.form == "diffusers" else ["from pathlib import Path", ""]
    if shared.form != "diffusers":
        lines += ["from huggingface_hub import snapshot_download", ""]
    lines += ["import fdiv_jax as fj"]
    return lines + (["from fdiv_jax.checkpoints import apply_delta"] if shared.form == "delta" else [])


def _with_fdiv_jax(base: Base, shared: Shared) -> list[str]:
    if shared.form == "diffusers":
        return ["pipe = fj.load_pipeline(here)"]
    file = f"folder / {FILES[shared.form]!r}"
    if shared.form == "single-file":
        config = f", config={base.name!r}" if shared.unstated else ""
        return [_FOLDER, f"pipe = fj.load_pipeline({file}{config})"]
    options = "".join(f", {key}={value!r}" for key, value in base.loaded_with.items() if key != "dtype")
    added = "".join(f".with_lora({each!r}, {strength!r})" for each, strength in base.loras)
    lines = [_FOLDER, f"pipe = fj.load_pipeline({base.name!r}{options}){added}"]
    if shared.form == "delta":
        return [*lines, f"pipe = pipe.replace(**apply_delta({file}, pipe.components))"]
    return [*lines, f"pipe = pipe.with_lora({file})"]
