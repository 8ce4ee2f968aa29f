"""Reading Fashion-MNIST: files made here, good and bad."""

import gzip
import struct

import numpy as np
import pytest

from fdiv_jax.worlds import load_split
from fdiv_jax.worlds.data import find_fashion_mnist


def _write(directory, name, array, cut=0):
    head = b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    raw = head + array.tobytes()
    (directory / name).write_bytes(gzip.compress(raw[: len(raw) - cut]))


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    content = {}
    for split, prefix, n in (("train", "train", 7), ("test", "t10k", 5)):
        images = rng.integers(0, 256, (n, 28, 28)).astype(np.uint8)
        labels = rng.integers(0, 10, n).astype(np.uint8)
        _write(tmp_path, f"{prefix}-images-idx3-ubyte.gz", images)
        _write(tmp_path, f"{prefix}-labels-idx1-ubyte.gz", labels)
        content[split] = images, labels
    return tmp_path, content


def test_reads_what_was_written(files):
    directory, content = files
    for split, (images, labels) in content.items():
        read = load_split(split, directory)
        np.testing.assert_array_equal(read[0], images)
        np.testing.assert_array_equal(read[1], labels)


def test_environment_variable_names_the_directory(files, monkeypatch):
    monkeypatch.setenv("FDIV_JAX_FASHION_MNIST", str(files[0]))
    assert find_fashion_mnist() == files[0]


def test_missing_truncated_and_unknown(files):
    directory, content = files
    _write(directory, "t10k-labels-idx1-ubyte.gz", content["test"][1], cut=1)
    with pytest.raises(ValueError, match=r"t10k-labels.*truncated"):
        load_split("test", directory)
    with pytest.raises(ValueError, match="expected one of"):
        load_split("validation", directory)
    (directory / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"train-labels-idx1-ubyte\.gz"):
        load_split("train", directory)
