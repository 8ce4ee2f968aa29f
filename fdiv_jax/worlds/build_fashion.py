"""Train the embedded world `fashion` and its judge from Fashion-MNIST, and write them into the package.

    python -m fdiv_jax.worlds.build_fashion [--work DIR] [--seed 0] [--data DIR] [--only vae unet judge]
    python -m fdiv_jax.worlds.build_fashion --without sneaker --output DIR     # a model that never saw one

Stages: the autoencoder; the judge; the latents of the training images; the UNet together with its text
encoder, first on all photographs, then on those that the judge is sure about, then on its own guided output
(`distil_guidance`), so that a guidance of 3 is enough. Each stage can be stopped at any moment and goes on
from its last checkpoint in the work directory.

Cost on two idle cores with XLA_FLAGS=--xla_force_host_platform_device_count=2: about 0.6 s per step of each
network (1 s of the last stage), so an hour and a quarter in all, and 3 GB of memory.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx

from fdiv_jax.assets import asset_directory
from fdiv_jax.checkpoints import atomic_directory, save_component, state_dict
from fdiv_jax.diffusion import NoiseSchedule
from fdiv_jax.files import JsonObject
from fdiv_jax.nn import (
    AutoencoderKL,
    CLIPTextConfig,
    CLIPTextModel,
    UNet2DConditionModel,
    UNetConfig,
    VAEConfig,
    abstract_module,
)
from fdiv_jax.pipeline import Concept, TextToImagePipeline
from fdiv_jax.worlds.captions import CAPTIONS, ITEM_NAMES, STYLE_NAMES, SUPERCLASSES, concepts, draw_captions
from fdiv_jax.worlds.data import load_split
from fdiv_jax.worlds.judge import Judge, JudgeConfig, JudgeNetwork, load_judge
from fdiv_jax.worlds.styles import draw
from fdiv_jax.worlds.training import train
from fdiv_jax.worlds.vocabulary import TEXT_LENGTH, build_tokenizer

VAE = VAEConfig(
    down_block_types=("DownEncoderBlock2D",) * 3,
    up_block_types=("UpDecoderBlock2D",) * 3,
    block_out_channels=(16, 32, 64),
    norm_num_groups=8,
    sample_size=32,
    mid_block_add_attention=True,
    force_upcast=False,
)
UNET = UNetConfig(
    sample_size=8,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    block_out_channels=(64, 120),
    layers_per_block=1,
    norm_num_groups=8,
    cross_attention_dim=64,
    attention_head_dim=4,
)
TEXT = CLIPTextConfig(
    vocab_size=596,
    hidden_size=64,
    intermediate_size=256,
    projection_dim=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=TEXT_LENGTH,
    pad_token_id=595,
    bos_token_id=594,
    eos_token_id=595,
)
SCHEDULER: JsonObject = {
    "_class_name": "DDIMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


@dataclasses.dataclass(frozen=True)
class BuildConfig:
    """Settings of the builder."""

    work: Path = Path(".build-fashion")
    """Directory of checkpoints, logs and cached latents; it can be deleted afterwards."""
    data: Path | None = None
    """Directory of the four Fashion-MNIST files; default: where Debian's package puts them."""
    seed: int = 0
    only: tuple[str, ...] = ("vae", "judge", "unet")
    """Stages to run."""
    vae_steps: int = 1600
    unet_steps: int = 3000
    refine_steps: int = 600
    distil_steps: int = 600
    distil_guidance: float = 2.0
    """Guidance that the last stage distils into the model: a guidance g of the result is about as strong as g
    times this one was before."""
    judge_steps: int = 2500
    without: tuple[str, ...] = ()
    """Items of which no photograph is trained on: the UNet and the text encoder never learn them. The
    autoencoder is that of the package."""
    output: Path | None = None
    """The directory of such a model; it must be new, and is needed with `without`."""

    def __post_init__(self) -> None:
        for name in self.without:
            if name not in ITEM_NAMES:
                raise ValueError(f"without {name!r}, expected some of {', '.join(ITEM_NAMES)}")
        if len(set(self.without)) >= len(ITEM_NAMES):
            raise ValueError("without every item nothing is left to train on")
        if bool(self.without) != (self.output is not None):
            raise ValueError("without and output come together: the package's own model has every item")


def rng_of(seed: int, stage: int, step: int) -> np.random.Generator:
    """The generator of one batch: the same for a run that was stopped and one that was not."""
    return np.random.default_rng((seed, stage, step))


def train_vae(config: BuildConfig, images: np.ndarray) -> nnx.State:
    """Autoencoder: L1 + squared error of pixels and of their differences, and a small KL term."""
    graph, parameters = nnx.split(AutoencoderKL(VAE, rngs=nnx.Rngs(config.seed)))

    def loss(parameters: nnx.State, batch: dict[str, jax.Array], key: jax.Array):
        vae = nnx.merge(graph, parameters)
        truth = draw(batch["grey"], batch["style"])
        mean, log_variance = vae.encode(truth)
        latents = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape)
        error = vae.decode(latents) - truth
        square = jnp.mean(error**2)
        edges = jnp.mean((error[:, 1:] - error[:, :-1]) ** 2) + jnp.mean(
            (error[:, :, 1:] - error[:, :, :-1]) ** 2
        )
        kl = 0.5 * jnp.mean(mean**2 + jnp.exp(log_variance) - 1.0 - log_variance)
        return square + 0.2 * jnp.mean(jnp.abs(error)) + edges + 5e-4 * kl, {"mse": square, "kl": kl}

    def batch(step: int) -> dict[str, np.ndarray]:
        rng = rng_of(config.seed, 1, step)
        chosen = rng.integers(len(images), size=64)
        return {"grey": images[chosen], "style": rng.integers(len(STYLE_NAMES), size=64).astype(np.int32)}

    return train(
        "vae",
        parameters,
        loss,
        batch,
        steps=config.vae_steps,
        learning_rate=2e-3,
        seed=config.seed,
        work=config.work,
    )


def encode_training_images(
    config: BuildConfig, images: np.ndarray, vae: AutoencoderKL
) -> dict[str, np.ndarray]:
    """Unscaled latents (means) of every training image in two styles each, cached in the work directory."""
    path = config.work / "latents.npz"
    if path.is_file():
        return dict(np.load(path))
    copies = 2
    rng = rng_of(config.seed, 2, 0)
    styles = np.stack([rng.permutation(len(STYLE_NAMES))[:copies] for _ in range(len(images))], 1).astype(
        np.int32
    )
    graph, parameters = nnx.split(vae)
    encode = jax.jit(
        lambda p, grey, style: nnx.merge(graph, p).encode(draw(grey, style))[0].astype(jnp.float16)
    )
    index = np.repeat(np.arange(len(images), dtype=np.int32), copies)
    flat = styles.reshape(-1)
    latents = [
        np.asarray(encode(parameters, images[index[i : i + 500]], flat[i : i + 500]))
        for i in range(0, len(index), 500)
    ]
    result = {"latents": np.concatenate(latents), "index": index, "style": flat}
    temporary = path.with_name("latents.tmp.npz")
    np.savez(temporary, **result)
    temporary.rename(path)
    return result


def tokenize(texts: tuple[str, ...]) -> np.ndarray:
    """Token ids, n TEXT_LENGTH."""
    return build_tokenizer()(
        list(texts), padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="np"
    )["input_ids"].astype(np.int32)


def recognised(
    config: BuildConfig, data: dict[str, np.ndarray], images: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Which of the drawn training photographs the judge is sure about: a probability of its label above 0.6.

    Four in ten shirts of Fashion-MNIST could as well be another top; what is asked for by name should not be
    one of those. The judge sees real photographs only, here as in its training.
    """
    path = config.work / "recognised.npy"
    if path.is_file():
        return np.load(path)
    judge, probability = load_judge(), []
    for i in range(0, len(data["index"]), 1000):
        index, style = data["index"][i : i + 1000], data["style"][i : i + 1000]
        items = judge(np.asarray(draw(jnp.asarray(images[index]), jnp.asarray(style)))).items
        probability.append(items[np.arange(len(index)), labels[index]])
    result = np.concatenate(probability) > 0.6
    np.save(path, result)
    return result


def initial_parameters(config: BuildConfig) -> dict[str, nnx.State]:
    """Random UNet and text encoder; the UNet's last layer starts at zero."""
    unet = UNet2DConditionModel(UNET, rngs=nnx.Rngs(config.seed + 1))
    unet.conv_out.kernel[...] = jnp.zeros_like(unet.conv_out.kernel[...])
    text = CLIPTextModel(TEXT, rngs=nnx.Rngs(config.seed + 2))
    return {"unet": nnx.state(unet), "text_encoder": nnx.state(text)}


def train_unet(
    config: BuildConfig,
    stage: str,
    parameters: dict[str, nnx.State],
    data: dict[str, np.ndarray],
    labels: np.ndarray,
    scale: float,
    *,
    teacher: tuple[dict[str, nnx.State], float] | None = None,
    **options: Any,
) -> dict[str, nnx.State]:
    """UNet and text encoder together, on the noise prediction's squared error (Ho et al., 2020).

    With a `teacher` (parameters, guidance g) the prediction is compared with the teacher's u + g (c - u)
    instead of the noise: Meng et al., On distillation of guided diffusion models, 2023, stage one at one g.
    """
    schedule = NoiseSchedule.from_config(SCHEDULER)
    unet_graph = nnx.graphdef(abstract_module(lambda rngs: UNet2DConditionModel(UNET, rngs=rngs)))
    text_graph = nnx.graphdef(abstract_module(lambda rngs: CLIPTextModel(TEXT, rngs=rngs)))
    tokens = jnp.asarray(tokenize(CAPTIONS))
    size = 128

    def predict(parameters: dict[str, nnx.State], noisy: jax.Array, timesteps: jax.Array, caption: jax.Array):
        text = nnx.merge(text_graph, parameters["text_encoder"])(tokens)[caption]
        return nnx.merge(unet_graph, parameters["unet"])(noisy, timesteps, text)

    def loss(parameters: dict[str, nnx.State], batch: dict[str, jax.Array], key: jax.Array):
        caption = batch["caption"]
        offset, noise_key = jax.random.split(key)
        uniform = (jnp.arange(size) + jax.random.uniform(offset)) / size  # stratified over the schedule
        timesteps = (uniform * schedule.num_train_timesteps).astype(jnp.int32)
        x0 = batch["latents"].astype(jnp.float32) * scale
        noise = jax.random.normal(noise_key, x0.shape)
        noisy = schedule.add_noise(x0, noise, timesteps)
        if teacher is not None:
            frozen, guidance = teacher
            free = predict(frozen, noisy, timesteps, jnp.full_like(caption, CAPTIONS.index("")))
            noise = free + guidance * (predict(frozen, noisy, timesteps, caption) - free)
        error = jnp.mean((predict(parameters, noisy, timesteps, caption) - noise) ** 2)
        return error, {}

    def batch(step: int) -> dict[str, np.ndarray]:
        rng = rng_of(config.seed, {"unet": 3, "refine": 5, "distil": 7}[stage], step)
        chosen = rng.integers(len(data["index"]), size=size)
        items, styles = labels[data["index"][chosen]], data["style"][chosen]
        return {"latents": data["latents"][chosen], "caption": draw_captions(rng, items, styles)}

    return train(stage, parameters, loss, batch, seed=config.seed + 1, work=config.work, **options)


def _describes() -> np.ndarray:
    """Which caption is true of which (item, style): items styles captions. The empty one says nothing."""
    truth = np.zeros((len(ITEM_NAMES), len(STYLE_NAMES), len(CAPTIONS)), bool)
    for k, text in enumerate(CAPTIONS):
        noun, _, rest = text.partition(",")
        noun = noun.partition(" ")[2]
        for i, item in enumerate(ITEM_NAMES):
            for j, style in enumerate(STYLE_NAMES):
                named = noun == item or item in SUPERCLASSES.get(noun, ())
                truth[i, j, k] = named and (not rest or rest == f" {style} style")
    return truth


def train_judge(config: BuildConfig, images: np.ndarray, labels: np.ndarray) -> nnx.State:
    """Cross-entropy of items and styles, and the sigmoid loss of the small CLIP against every caption."""
    graph, parameters = nnx.split(JudgeNetwork(JudgeConfig(), rngs=nnx.Rngs(config.seed + 3)))
    tokens = jnp.asarray(tokenize(CAPTIONS[1:]))
    truth = jnp.asarray(_describes()[..., 1:])
    size = 128

    def loss(parameters: nnx.State, batch: dict[str, jax.Array], key: jax.Array):
        network = nnx.merge(graph, parameters)
        # moved by up to two pixels, so that the judge does not rely on exact places
        rows, columns = jax.random.randint(key, (2,), -2, 3)
        drawn = draw(jnp.roll(batch["grey"], (rows, columns), (1, 2)), batch["style"])
        items, styles, embeddings = network.heads(network.features(drawn))
        item_target = optax.smooth_labels(jax.nn.one_hot(batch["item"], len(ITEM_NAMES)), 0.05)
        item_loss = jnp.mean(optax.softmax_cross_entropy(items, item_target))
        style_loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(styles, batch["style"]))
        cosines = embeddings @ network.encode_text(tokens).T
        logits = jnp.exp(network.logit_scale[...]) * cosines + network.logit_bias[...]
        fits = truth[batch["item"], batch["style"]]
        clip_loss = jnp.mean(jnp.sum(optax.sigmoid_binary_cross_entropy(logits, fits), axis=1))
        accuracy = jnp.mean(jnp.argmax(items, -1) == batch["item"])
        return item_loss + 0.2 * style_loss + 0.1 * clip_loss, {"item": accuracy, "clip": clip_loss}

    def batch(step: int) -> dict[str, np.ndarray]:
        rng = rng_of(config.seed, 4, step)
        chosen = rng.integers(len(images), size=size)
        styles = rng.integers(len(STYLE_NAMES), size=size).astype(np.int32)
        return {"grey": images[chosen], "style": styles, "item": labels[chosen].astype(np.int32)}

    return train(
        "judge",
        parameters,
        loss,
        batch,
        steps=config.judge_steps,
        learning_rate=3e-3,
        seed=config.seed + 3,
        work=config.work,
    )


def match_frequencies(config: BuildConfig, network: JudgeNetwork, images: np.ndarray) -> None:
    """Shift the item logits so that each item is named as often as it occurs: one photograph in ten.

    Cross-entropy leaves the hardest item, the shirt, named too rarely. Fitted on training photographs.
    """
    rng = rng_of(config.seed, 6, 0)
    chosen = rng.permutation(len(images))[:20_000]
    styles = rng.integers(len(STYLE_NAMES), size=len(chosen))
    judge = Judge(network)
    judged = [
        judge(np.asarray(draw(jnp.asarray(images[chosen[i : i + 1000]]), jnp.asarray(styles[i : i + 1000]))))
        for i in range(0, len(chosen), 1000)
    ]
    logits = np.log(np.concatenate([part.items for part in judged]) + 1e-12)
    shift = np.zeros(len(ITEM_NAMES))
    for _ in range(200):
        named = np.bincount((logits + shift).argmax(-1), minlength=len(shift)) / len(logits)
        shift += 0.2 * np.log(1 / len(shift) / np.maximum(named, 1e-3))
    bias = network.item.bias
    assert bias is not None
    bias[...] = bias[...] + jnp.asarray(shift - shift.mean(), jnp.float32)


def report_on_test_images(judge: Judge, config: BuildConfig) -> JsonObject:
    """Accuracy on all 10,000 real test images in every style."""
    images, labels = load_split("test", config.data)
    report: JsonObject = {
        "images": len(images) * len(STYLE_NAMES),
        "item_by_style": {},
        "item_by_item": {},
    }
    right_item, right_style, right_clip = [], [], []
    captions = [f"{text}" for text in CAPTIONS[1:] if "," not in text][: len(ITEM_NAMES)]
    for k, style in enumerate(STYLE_NAMES):
        drawn = np.concatenate(
            [
                np.asarray(draw(jnp.asarray(images[i : i + 1000]), jnp.full(1000, k)))
                for i in range(0, len(images), 1000)
            ]
        )
        judged = judge(drawn)
        right_item.append(judged.items.argmax(-1) == labels)
        right_style.append(judged.styles.argmax(-1) == k)
        right_clip.append(judge.clip_similarity(drawn, captions).argmax(-1) == labels)
        report["item_by_style"][style] = float(np.mean(right_item[-1]))
    report["item"] = float(np.mean(right_item))
    report["style"] = float(np.mean(right_style))
    report["clip_item"] = float(np.mean(right_clip))
    for k, item in enumerate(ITEM_NAMES):
        report["item_by_item"][item] = float(np.mean(np.stack(right_item)[:, labels == k]))
    return report


def assemble(vae: AutoencoderKL, trained: dict[str, nnx.State]) -> TextToImagePipeline:
    """The pipeline of the trained parts, kept in float32 on disk: diffusers runs it as it is stored."""
    unet = nnx.merge(nnx.graphdef(UNet2DConditionModel(UNET, rngs=nnx.Rngs(0))), trained["unet"])
    text = nnx.merge(nnx.graphdef(CLIPTextModel(TEXT, rngs=nnx.Rngs(0))), trained["text_encoder"])
    models = {"unet": unet, "vae": vae, "text_encoder": text}
    return TextToImagePipeline(
        **models,
        tokenizer=build_tokenizer(),
        schedule=NoiseSchedule.from_config(SCHEDULER),
        scheduler_config=SCHEDULER,
        concepts={name: Concept.from_dict(name, entry) for name, entry in concepts().items()},
        name="fashion",
    )


def halve(state: nnx.State) -> nnx.State:
    """Round every parameter to float16, in which the package stores it."""
    return jax.tree.map(lambda x: x.astype(jnp.float16).astype(x.dtype), state)


def main(config: BuildConfig) -> None:
    """Run the stages asked for; a stage that has been finished costs nothing."""
    if config.without:
        from fdiv_jax.worlds.build_without import build_without

        build_without(config)
        return
    config.work.mkdir(parents=True, exist_ok=True)
    images, labels = load_split("train", config.data)
    target = asset_directory("fashion").parent
    if "judge" in config.only:
        network = nnx.merge(
            nnx.graphdef(JudgeNetwork(JudgeConfig(), rngs=nnx.Rngs(0))),
            halve(train_judge(config, images, labels)),
        )
        match_frequencies(config, network, images)
        network = nnx.merge(nnx.graphdef(network), halve(nnx.state(network)))
        report = report_on_test_images(Judge(network), config)
        with atomic_directory(target / "fashion_judge", overwrite=True) as directory:
            save_component(directory, network, stored_dtypes=dict.fromkeys(state_dict(network), "float16"))
            (directory / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        print(json.dumps(report, indent=2))
    if "vae" in config.only or "unet" in config.only:
        parameters = halve(train_vae(config, images))
        vae = nnx.merge(nnx.graphdef(AutoencoderKL(VAE, rngs=nnx.Rngs(0))), parameters)
    if "unet" in config.only:
        data = encode_training_images(config, images, vae)
        scale = float(1.0 / np.std(data["latents"].astype(np.float32)))
        scaled = dataclasses.replace(VAE, scaling_factor=round(scale, 5))
        vae = nnx.merge(nnx.graphdef(AutoencoderKL(scaled, rngs=nnx.Rngs(0))), parameters)
        train_pipeline(config, vae, data, images, labels).save(target / "fashion", overwrite=True)


def train_pipeline(
    config: BuildConfig,
    vae: AutoencoderKL,
    data: dict[str, np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
) -> TextToImagePipeline:
    """The three stages of the UNet and the text encoder, on latents of that autoencoder."""
    scale = vae.config.scaling_factor
    steps = config.unet_steps
    trained = train_unet(
        config,
        "unet",
        initial_parameters(config),
        data,
        labels,
        scale,
        steps=steps,
        decay_steps=steps * 6 // 5,
        learning_rate=1e-3,
    )
    sure = recognised(config, data, images, labels)
    data = {name: values[sure] for name, values in data.items()}
    for stage, steps in (("refine", config.refine_steps), ("distil", config.distil_steps)):
        trained = train_unet(
            config,
            stage,
            trained,
            data,
            labels,
            scale,
            teacher=(trained, config.distil_guidance) if stage == "distil" else None,
            steps=steps,
            learning_rate=4e-4,
        )
        trained = {name: halve(state) for name, state in trained.items()}
    return assemble(vae, trained)


if __name__ == "__main__":
    main(tyro.cli(BuildConfig))
