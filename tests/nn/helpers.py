"""Random small PyTorch models, and the comparison of what two networks give."""

import json
from pathlib import Path

import numpy as np

from fdiv_jax.nn.memory import inner_programs

TOLERANCE = 1e-4  # of the largest value, float32


AXES_OF_LIBRARY = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
"""n h w c, h w inputs outputs, n h w c: what XLA's library for a CPU reads."""


def convolutions(jaxpr):
    """Parameters of the convolutions of a program, and of the programs within."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            yield equation.params
        for inner in inner_programs(equation.params):
            yield from convolutions(inner)


def of_library(jaxpr):
    """Whether each convolution of a program lies so."""
    return [tuple(each["dimension_numbers"]) == AXES_OF_LIBRARY for each in convolutions(jaxpr)]


def randomised(model, seed):
    """Give every parameter a random value (biases and norms too, which initialisation leaves at 0 and 1)."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.2 * noise + (name.endswith("weight")))
    return model.eval()


def relative_error(ours, theirs) -> float:
    """max |ours - theirs| / max |theirs|, checking that there is something to compare."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    assert np.isfinite(theirs).all()
    assert np.abs(theirs).max() > 1e-3
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def call(method, *arrays):
    """A bound method of a Flax module, compiled without optimisations: those would take most of the time."""
    import jax
    from flax import nnx

    graph, state = nnx.split(method.__self__)

    def run(state, *arrays):
        return getattr(nnx.merge(graph, state), method.__name__)(*arrays)

    options: dict[str, str | bool] = {"xla_backend_optimization_level": "0"}
    return jax.jit(run).lower(state, *arrays).compile(compiler_options=options)(state, *arrays)


def torch_image(array):
    """n h w c -> n c h w, a torch tensor."""
    import torch

    return torch.tensor(np.ascontiguousarray(np.asarray(array).transpose(0, 3, 1, 2)))


def array_image(tensor):
    """n c h w, a torch tensor -> n h w c."""
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


def stored_config(directory: Path) -> dict:
    return json.loads((directory / "config.json").read_text())


def assert_same_tensors(mine, theirs):
    """Two torch state dicts agree in names, shapes and bits."""
    import torch

    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
