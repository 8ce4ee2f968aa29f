"""What the tests of run directories share."""

import json

import numpy as np

from fdiv_jax.unlearning.run_directory import RunDirectory

DESCRIPTION = {
    "config": {
        "target": "sneaker",
        "learning_rate": 0.1,
        "optimiser": {"name": "adam", "b1": 0.9},
        "at": (1, 2),
    },
    "model": {"name": "tiny", "sha256": "abc"},
    "versions": {"jax": "0.10.2", "python": "3.11"},
    "devices": ["cpu:0"],
}
LIKE = {"x": np.zeros(3, np.float32)}


def begin(path, description=DESCRIPTION, *, resume=False, **options):
    return RunDirectory.open(path, description, resume=resume, **options)


def read_rows(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def contents(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def state(step):
    return {"x": np.full(3, step, np.float32)}


def write_result(path):
    (path / "pipeline").mkdir()
    (path / "pipeline" / "weights").write_text("learned")
    (path / "lora.safetensors").write_text("learned")
