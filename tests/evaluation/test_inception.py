"""FID's Inception-v3 and its three resizings against PyTorch and Pillow."""

import numpy as np
import pytest
from PIL import Image

from fdiv_jax.checkpoints import load_state_dict
from fdiv_jax.evaluation import inception_features, load_inception
from fdiv_jax.evaluation.inception import resized
from fdiv_jax.nn import abstract_module
from fdiv_jax.nn import inception as ours
from tests.nn.helpers import array_image, call, relative_error, torch_image

torch = pytest.importorskip("torch")
theirs = pytest.importorskip("tests.evaluation.torch_inception")
pytestmark = pytest.mark.interop

BLOCKS = {
    "A": (lambda rngs: ours.InceptionA(24, 8, rngs), lambda: theirs.block_a(24, 8), 24),
    "B": (lambda rngs: ours.InceptionB(16, rngs), lambda: theirs.block_b(16), 16),
    "C": (lambda rngs: ours.InceptionC(20, 12, rngs), lambda: theirs.block_c(20, 12), 20),
    "D": (lambda rngs: ours.InceptionD(20, rngs), lambda: theirs.block_d(20), 20),
    "E, average": (
        lambda rngs: ours.InceptionE(24, ours.average, rngs),
        lambda: theirs.block_e(24, theirs.average),
        24,
    ),
    "E, largest": (
        lambda rngs: ours.InceptionE(24, ours.largest, rngs),
        lambda: theirs.block_e(24, theirs.largest),
        24,
    ),
}


def tensors(module):
    return {k: v.numpy() for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_theirs(name):
    mine, other, inputs = BLOCKS[name]
    block = theirs.random_weights(other())
    module = load_state_dict(abstract_module(mine), tensors(block))
    x = np.random.default_rng(0).standard_normal((2, 5, 6, inputs)).astype(np.float32)
    with torch.no_grad():
        expected = array_image(block(torch_image(x)))
    assert relative_error(call(module.__call__, x), expected) <= 1e-5


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file like the published one: the network with its classifier and counters of batches."""
    from safetensors.torch import save_file

    network = theirs.random_weights(theirs.Inception())
    file = tmp_path_factory.mktemp("inception") / "inception.safetensors"
    save_file(network.state_dict(), file)
    return file, network


@pytest.mark.slow
def test_the_network_is_theirs(published):
    file, network = published
    x = np.random.default_rng(1).standard_normal((2, 80, 91, 3)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch_image(x)).numpy()
    assert relative_error(call(load_inception(file).__call__, x), expected) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("resizing", ["pytorch-fid"])
def test_features_are_theirs(published, resizing):
    file, network = published
    images = np.random.default_rng(2).integers(0, 256, (3, 20, 33, 3)).astype(np.uint8)
    features = inception_features(file, batch=2)
    with torch.no_grad():
        values = torch_image(images / np.float32(255))
        large = torch.nn.functional.interpolate(values, (299, 299), mode="bilinear", align_corners=False)
        expected = network(2 * large - 1).numpy()
    assert features.name == "inception-v3 (pytorch-fid)"
    assert relative_error(features(images), expected) <= 1e-4


@pytest.mark.slow
def test_the_file_is_checked(published, tmp_path):
    from safetensors.torch import save_file

    file, network = published
    state = network.state_dict()
    load_inception(file)
    for name, change, message in (
        ("shape", {"Mixed_7c.branch_pool.conv.weight": torch.zeros(192, 768, 1, 1)}, "Mixed_7c.branch_pool"),
        ("extra", {"AuxLogits.conv0.conv.weight": torch.zeros(1)}, "unexpected: AuxLogits"),
    ):
        other = tmp_path / f"{name}.safetensors"
        save_file(state | change, other)
        with pytest.raises(ValueError, match=message) as caught:
            load_inception(other)
        assert "\n" not in str(caught.value)


def test_the_network_of_todays_libraries_is_refused(tmp_path):
    from safetensors.numpy import save_file

    file = tmp_path / "imagenet.safetensors"
    save_file({"fc.weight": np.zeros((1000, 3), np.float32)}, file)
    with pytest.raises(ValueError, match="1000 classes, whose features are others"):
        load_inception(file)
    with pytest.raises(FileNotFoundError, match="no file"):
        load_inception(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="resizing 'nearest'"):
        inception_features(file, resizing="nearest")


@pytest.mark.parametrize("shape", [(32, 32), (20, 33), (299, 299), (512, 400)])
def test_resizing_of_pytorch_fid(shape):
    images = np.random.default_rng(0).integers(0, 256, (2, *shape, 3)).astype(np.uint8)
    values = torch_image(images / 255.0)
    expected = torch.nn.functional.interpolate(values, (299, 299), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(resized(images, "pytorch-fid"), array_image(2 * expected - 1), atol=1e-6)


@pytest.mark.parametrize("shape", [(32, 32), (20, 33), (400, 512)])
def test_resizing_of_torch_fidelity(shape):
    """TensorFlow 1: pixel i comes from i size / 299, between the pixel below it and the next one."""
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    found = resized(image[None], "torch-fidelity")[0]
    for i, j in ((0, 0), (17, 250), (298, 298), (298, 3)):
        y, x = i * shape[0] / 299, j * shape[1] / 299
        top, left = int(y), int(x)
        bottom, right = min(top + 1, shape[0] - 1), min(left + 1, shape[1] - 1)
        pixels = image.astype(float)
        above = pixels[top, left] + (pixels[top, right] - pixels[top, left]) * (x - left)
        below = pixels[bottom, left] + (pixels[bottom, right] - pixels[bottom, left]) * (x - left)
        np.testing.assert_allclose(found[i, j], (above + (below - above) * (y - top) - 128) / 128, atol=1e-5)


def test_resizing_of_clean_fid():
    image = np.random.default_rng(0).integers(0, 256, (40, 64, 3)).astype(np.uint8)
    found = resized(image[None], "clean-fid")[0]
    channel = Image.fromarray(image[..., 1].astype(np.float32)).resize((299, 299), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(found[..., 1], (np.asarray(channel) - 128) / 128, atol=1e-6)
    flat = np.full((1, 5, 7, 3), 200, np.uint8)
    for resizing in ("pytorch-fid", "torch-fidelity", "clean-fid"):
        expected = 2 * 200 / 255 - 1 if resizing == "pytorch-fid" else (200 - 128) / 128
        np.testing.assert_allclose(resized(flat, resizing), expected, atol=1e-5)
