"""What loading takes of the host's memory, measured in a process of its own."""

import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

_CONFIG = {
    "vocab_size": 1024,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
}

_MEASURE = """
import sys
from pathlib import Path
import jax
from flax import nnx
from fdiv_jax.checkpoints import load_component
from fdiv_jax.nn import CLIPTextModel

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024

small, large, dtype = sys.argv[1:]
load_component(small, CLIPTextModel, param_dtype=dtype)
Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
before = memory("VmRSS")
model = load_component(large, CLIPTextModel, param_dtype=dtype).model
kept = sum(leaf.nbytes for leaf in jax.block_until_ready(jax.tree.leaves(nnx.state(model))))
print(kept, memory("VmHWM") - before)
"""


def write(directory, layers, dtype):
    """A text tower of random weights; two shards, so that both ways of reading are measured."""
    from fdiv_jax.checkpoints.state_dicts import tensor_names
    from fdiv_jax.nn import CLIPTextModel, abstract_network

    config = _CONFIG | {"num_hidden_layers": layers}
    model = abstract_network(CLIPTextModel, config)
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.standard_normal(shape, np.float32).astype(dtype)
        for name, shape in tensor_names(model).items()
    }
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    names = sorted(tensors)
    files = [f"model-0000{i + 1}-of-00002.safetensors" for i in range(2)]
    for i, file in enumerate(files):
        save_file({name: tensors[name] for name in names[i::2]}, directory / file)
    index = {"weight_map": {name: files[i % 2] for i, name in enumerate(names)}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("stored", "kept"),
    [(np.float32, "float32"), (np.float16, "float16"), (np.float32, "bfloat16"), (np.float16, "float32")],
)
def test_the_peak_is_hardly_more_than_the_weights_as_kept(stored, kept, tmp_path):
    small, large = write(tmp_path / "small", 1, stored), write(tmp_path / "large", 8, stored)
    run = subprocess.run(
        [sys.executable, "-c", _MEASURE, small, large, kept],
        capture_output=True,
        text=True,
        check=True,
        env={"JAX_PLATFORMS": "cpu", "PYTHONPATH": ":".join(sys.path)},
    )
    weights, peak = map(int, run.stdout.split())
    assert weights == pytest.approx(400e6 * jnp.dtype(kept).itemsize / 4, rel=0.1)
    print(f"{np.dtype(stored)} kept as {kept}: peak {peak / weights:.2f} of {weights / 2**20:.0f} MB")
    assert 0.8 * weights <= peak <= 1.3 * weights
