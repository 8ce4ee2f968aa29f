"""Every file that is written has the permissions of any new file, whichever library wrote it."""

import os
import stat

import numpy as np
import pytest

from fdiv_jax import UnlearningConfig
from fdiv_jax.checkpoints import (
    TrainingCheckpoints,
    atomic_directory,
    atomic_file,
    save_component,
    save_delta,
)
from fdiv_jax.checkpoints.files import save_tensors, write_tensors
from fdiv_jax.monitoring import make_observers
from fdiv_jax.unlearning import AnchorImagesConfig, LoraConfig, unlearn
from tests.tiny import tiny_pipeline


@pytest.fixture(params=[0o022, 0o077, 0o002, 0o027])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


def wrong(place, umask):
    """What has other permissions than a plain new file or directory."""
    found = {}
    for path in place.rglob("*"):
        mode, expected = stat.S_IMODE(path.stat().st_mode), (0o777 if path.is_dir() else 0o666) & ~umask
        if mode != expected:
            found[str(path.relative_to(place))] = oct(mode)
    return found


def test_single_files(umask, tmp_path):
    tensors = {"a": np.ones(3, np.float32)}
    write_tensors(tmp_path / "new" / "a.safetensors", tensors, metadata={})
    write_tensors(tmp_path / "new" / "a.safetensors", tensors, metadata={}, overwrite=True)
    save_tensors(tensors, tmp_path / "bare.safetensors")
    save_tensors(tensors, tmp_path / "bare.safetensors")
    with atomic_file(tmp_path / "private") as path:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))  # as tempfile.mkstemp does
    with atomic_directory(tmp_path / "directory") as path:
        (path / "below").mkdir()
        os.close(os.open(path / "below" / "file", os.O_CREAT | os.O_WRONLY, 0o600))
    assert wrong(tmp_path, umask) == {}


@pytest.mark.slow
@pytest.mark.parametrize("umask", [0o022], indirect=True)
def test_checkpoints_components_and_models(umask, tmp_path, pipe):
    TrainingCheckpoints(tmp_path / "checkpoints").save(1, {"x": np.ones(3)}, {}, {"metrics.jsonl": b"{}"})
    save_component(tmp_path / "unet", pipe.unet)
    pipe.save(tmp_path / "model")
    other = pipe.replace(unet=tiny_pipeline(1).unet)
    save_delta(tmp_path / "delta.safetensors", {"unet": pipe.unet}, {"unet": other.unet})
    assert wrong(tmp_path, umask) == {}


@pytest.mark.slow
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_whole_run(mask, tmp_path, pipe):
    config = UnlearningConfig(
        "sneaker",
        steps=2,
        batch_size=2,
        images=AnchorImagesConfig(number=2, steps=1),
        lora=LoraConfig(rank=1),
    )
    observers = make_observers(pipe, config, sample_every=1, tensorboard=True)
    before = os.umask(mask)
    try:
        unlearn(pipe, config, tmp_path / "run", cache=tmp_path / "cache", observers=observers, progress=False)
    finally:
        os.umask(before)
    names = {path.name for path in tmp_path.rglob("*")}
    assert {"report.html", "fading.png", "lora.safetensors", "metrics.jsonl", "config.json"} <= names
    assert wrong(tmp_path, mask) == {}
