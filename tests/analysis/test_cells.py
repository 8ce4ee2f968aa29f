"""Cells of the analysis: what is kept of them, to the bit, and under which name."""

import json

import numpy as np
import pytest

from analysis.cells import decode, encode
from analysis.runner import Context


def test_two_kinds_of_cells_have_two_names(tmp_path):
    context = Context("part", False, tmp_path, tmp_path)
    assert context.cells([1], "items", lambda item: item) == [1]
    with pytest.raises(ValueError, match="two kinds of cells"):
        context.cells([1], "items", lambda item: -item)


def test_cells_keep_every_bit():
    rng = np.random.default_rng(0)
    value = {
        "complex": rng.standard_normal(3) + 1j * rng.standard_normal(3),
        "single": rng.standard_normal((2, 0, 3)).astype(np.float32),
        "text": ["θ", None, True, np.float64(0.1), np.int32(3), np.bool_(False), float("inf")],
        "nested": ({"a": (1, 2)},),
    }
    found = decode(json.loads(json.dumps(encode(value))))
    for name in ("complex", "single"):
        assert found[name].dtype == value[name].dtype
        np.testing.assert_array_equal(found[name], value[name])
    assert found["text"] == ["θ", None, True, 0.1, 3, False, float("inf")]
    assert found["nested"] == [{"a": [1, 2]}]
    for wrong in (object(), {1: 2}, {"a": {3}}):
        with pytest.raises(TypeError, match="expected text, numbers"):
            encode(wrong)
