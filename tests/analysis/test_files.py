"""Files of the analysis: written whole, and tables that are checked."""

from pathlib import Path

import numpy as np
import pytest

from analysis import files


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "deep" / "numbers.csv"
    files.write_whole(target, "old")

    def broken(self, data):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", broken)
        with pytest.raises(OSError, match="disk full"):
            files.write_whole(target, "new")
    assert target.read_text() == "old"
    assert [p.name for p in target.parent.iterdir()] == ["numbers.csv"]


def test_tables_are_checked():
    assert files.csv_text({"a": [1, 2], "b": np.array([0.1, 1e-300])}) == "a,b\n1,0.1\n2,1e-300\n"
    with pytest.raises(ValueError, match="at least one row"):
        files.csv_text([])
    with pytest.raises(ValueError, match="nan in row 1, column a"):
        files.csv_text([{"a": 1.0}, {"a": float("nan")}])
    with pytest.raises(ValueError, match="columns"):
        files.csv_text([{"a": 1}, {"b": 1}])
    with pytest.raises(ValueError, match=r"at .a\[1\]"):
        files.json_text({"a": [1.0, float("inf")]})
