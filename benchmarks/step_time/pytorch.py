"""The same step in PyTorch with diffusers' UNet, as the published code takes it, timed in its own process."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel

from benchmarks.step_time.cases import CASES, inputs, network_directory
from benchmarks.step_time.clock import timed
from fdiv_jax.files import JsonObject


class Critic(torch.nn.Module):
    """Three halving spectral-norm convolutions, then 512 channels and 1 (f-DMU's critic)."""

    def __init__(self, channels: int):
        """`channels` of the latents; a mask comes beside them."""
        super().__init__()
        layers: list[torch.nn.Module] = []
        norm = torch.nn.utils.parametrizations.spectral_norm
        widths = (channels + 1, 64, 128, 256)
        for before, after in itertools.pairwise(widths):
            layers += [norm(torch.nn.Conv2d(before, after, 4, 2, 1)), torch.nn.LeakyReLU(0.2)]
        layers += [torch.nn.Conv2d(256, 512, 1), torch.nn.LeakyReLU(0.2), torch.nn.Conv2d(512, 1, 1)]
        self.layers = torch.nn.Sequential(*layers)

    def forward(self, output: torch.Tensor) -> torch.Tensor:
        """n c h w -> n 1 h' w'."""
        return self.layers(torch.cat([output, torch.ones_like(output[:, :1])], 1))


def run(name: str, loss: str, dtype: str, place: Path, compiled: bool = False) -> JsonObject:
    """Seconds of a step. The exact loss is the closed Hellinger here too."""
    case = CASES[name]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(os.cpu_count() or 1)
    directory = str(network_directory(name, place))
    # Weights in float32 and arithmetic in `dtype`, as on our side.
    frozen = UNet2DConditionModel.from_pretrained(directory).eval().requires_grad_(False).to(device)
    model = UNet2DConditionModel.from_pretrained(directory).requires_grad_(False).to(device)
    trained = [p for key, p in model.named_parameters() if "attn2.to_k" in key or "attn2.to_v" in key]
    for parameter in trained:
        parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(trained, lr=1e-5)
    if compiled:
        frozen, model = torch.compile(frozen), torch.compile(model)
    arrays = inputs(name, Path(directory))
    data = {key: torch.tensor(value, device=device) for key, value in arrays.items()}
    latents = data["latents"].permute(0, 3, 1, 2).contiguous()
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alphas = torch.tensor(np.cumprod(1 - betas), dtype=torch.float32, device=device)
    added = {}
    if "pooled" in data:
        added = {"added_cond_kwargs": {"text_embeds": data["pooled"], "time_ids": data["sizes"]}}
    critic = Critic(latents.shape[1]).to(device) if loss == "variational" else None
    ascent = torch.optim.AdamW(critic.parameters(), lr=1e-4) if critic else None
    precision = torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")

    def step() -> None:
        t = torch.randint(0, len(alphas), (len(latents),), device=device)
        a = alphas[t][:, None, None, None]
        x = a.sqrt() * latents + (1 - a).sqrt() * torch.randn_like(latents)
        with precision:
            with torch.no_grad():
                reference = frozen(x, t, data["anchor"], **added).sample.float()
            prediction = model(x, t, data["target"], **added).sample.float()
        if critic is None or ascent is None:
            m = ((prediction - reference) ** 2).sum(1).mean((1, 2))
            value = (2 * (1 - torch.exp(-m / 8))).mean()
        else:
            value = _game(critic, ascent, reference, prediction)
        value.backward()
        optimiser.step()
        optimiser.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()

    seconds = timed(step, case.steps, warm=3 if compiled else 2)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    kind = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return {"seconds": seconds, "device_peak_bytes": peak, "device": kind}


def _game(
    critic: torch.nn.Module, ascent: torch.optim.Optimizer, reference: torch.Tensor, prediction: torch.Tensor
) -> torch.Tensor:
    """One step of the critic on squared Hellinger, T = 1 - exp(-v), then the model's loss -E[f*(T)]."""

    def conjugate(v: torch.Tensor) -> torch.Tensor:
        return torch.exp(v) - 1  # f*(s) = s / (1 - s) at s = 1 - exp(-v)

    value = (1 - torch.exp(-critic(reference))).mean() - conjugate(critic(prediction.detach())).mean()
    (-value).backward()
    ascent.step()
    ascent.zero_grad()
    for parameter in critic.parameters():
        parameter.requires_grad_(False)
    loss = -conjugate(critic(prediction)).mean()
    for parameter in critic.parameters():
        parameter.requires_grad_(True)
    return loss
