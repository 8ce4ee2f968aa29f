"""Unlearn a concept of a Stable Diffusion of your own, and keep the change as a LoRA.

    python examples/unlearn_own_model.py MODEL --target "my cat" --anchor "a dog" \
        --prompts "a photo of my cat" "my cat on a sofa" --retained "a photo of a horse" --output runs/cat

MODEL is a diffusers directory, one .safetensors file or a hub id. On a GPU add --dtype bfloat16.
"""

import argparse
from pathlib import Path

from PIL import Image

import fdiv_jax as fj
from fdiv_jax.checkpoints import save_lora
from fdiv_jax.nn import extract_lora, named_parameters
from fdiv_jax.unlearning import AnchorImagesConfig


def main() -> None:
    """Draw before, unlearn, draw after, save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--target", required=True, help="the phrase to unlearn")
    parser.add_argument("--anchor", required=True, help="the phrase that takes its place")
    parser.add_argument("--prompts", nargs="+", required=True, help="prompts that show the target")
    parser.add_argument("--retained", nargs="*", default=[], help="prompts at which the model stays as it is")
    parser.add_argument("--divergence", default="squared_hellinger")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--images", type=int, default=50, help="anchor images that the frozen model draws")
    parser.add_argument("--sampling-steps", type=int, default=25)
    parser.add_argument("--rank", type=int, default=16, help="of the LoRA")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()

    pipe = fj.load_pipeline(options.model, dtype=options.dtype)
    config = fj.UnlearningConfig(
        target=options.target,
        anchor=options.anchor,
        prompts=tuple(options.prompts),
        retained=tuple(options.retained),
        divergence=options.divergence,
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        images=AnchorImagesConfig(number=options.images, steps=options.sampling_steps),
    )
    shown = [*options.prompts, *options.retained]
    before = pipe(shown, seed=0, steps=options.sampling_steps)
    result = fj.unlearn(pipe, config, options.output, resume=True)
    after = result.pipeline(shown, seed=0, steps=options.sampling_steps)

    for number, (prompt, old, new) in enumerate(zip(shown, before, after, strict=True)):
        pair = Image.new("RGB", (2 * old.shape[1], old.shape[0]))
        pair.paste(Image.fromarray(old), (0, 0))
        pair.paste(Image.fromarray(new), (old.shape[1], 0))
        pair.save(options.output / f"before-after-{number}.png")
        print(f"before-after-{number}.png: {prompt}")

    changed = list(result.selection.names)
    frozen, tuned = named_parameters(pipe.unet), named_parameters(result.pipeline.unet)
    found = extract_lora(frozen, tuned, options.rank, changed)
    file = options.output / "pytorch_lora_weights.safetensors"
    save_lora(file, {"unet": found.lora}, overwrite=True)
    print(f"{file}: a LoRA that leaves out {100 * found.error:.2g} % of the change")
    for warning in result.summary()["warnings"]:
        print(f"warning: {warning}")


if __name__ == "__main__":
    main()
