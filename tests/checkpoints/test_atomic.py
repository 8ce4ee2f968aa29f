"""A directory or a file is there whole, or as it was."""

import os
import stat

import pytest

from fdiv_jax.checkpoints import atomic_directory, atomic_file


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_it_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "deep" / "run"
    with atomic_directory(target) as directory:
        (directory / "sub").mkdir()
        (directory / "sub" / "file").write_text("whole")
        assert not target.exists()
    assert (target / "sub" / "file").read_text() == "whole"
    assert names(tmp_path / "deep") == ["run"]


def test_its_permissions_are_those_of_any_new_directory(tmp_path):
    (tmp_path / "plain").mkdir()
    with atomic_directory(tmp_path / "atomic"):
        pass
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "atomic")]
    assert modes[0] == modes[1]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("existing", [False, True])
def test_a_failure_leaves_nothing_behind(tmp_path, existing, error):
    target = tmp_path / "run"
    if existing:
        target.mkdir()
        (target / "old").write_text("old")

    def write():
        with atomic_directory(target, overwrite=True) as directory:
            (directory / "new").write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert names(tmp_path) == (["run"] if existing else [])
    if existing:
        assert names(target) == ["old"]
        assert (target / "old").read_text() == "old"


def test_a_failed_rename_brings_the_old_directory_back(tmp_path, monkeypatch):
    from pathlib import Path

    target = tmp_path / "run"
    target.mkdir()
    (target / "old").write_text("old")
    rename = Path.rename

    def refuse(self, other):
        if ".tmp-" in self.name:
            raise OSError("no space")
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="no space"), atomic_directory(target, overwrite=True) as directory:
        (directory / "new").write_text("new")
    assert names(tmp_path) == ["run"]
    assert names(target) == ["old"]


def test_what_is_there_is_not_overwritten_by_accident(tmp_path):
    target = tmp_path / "run"
    target.mkdir()
    (target / "old").write_text("old")
    ran = []
    with pytest.raises(FileExistsError, match="not empty"), atomic_directory(target):
        ran.append(1)
    assert not ran
    assert names(target) == ["old"]


def test_what_appears_meanwhile_is_not_overwritten_either(tmp_path):
    target = tmp_path / "run"

    def write():
        with atomic_directory(target):
            target.mkdir()
            (target / "other").write_text("another process was quicker")

    with pytest.raises(FileExistsError):
        write()
    assert names(tmp_path) == ["run"]
    assert names(target) == ["other"]


def test_an_empty_directory_is_filled(tmp_path):
    with atomic_directory(tmp_path / "run") as directory:
        (directory / "a").touch()
    (tmp_path / "empty").mkdir()
    with atomic_directory(tmp_path / "empty") as directory:
        (directory / "b").touch()
    assert names(tmp_path / "empty") == ["b"]


def test_overwriting_replaces_and_does_not_merge(tmp_path):
    for name in ("old", "new"):
        with atomic_directory(tmp_path / "run", overwrite=True) as directory:
            (directory / name).touch()
    assert names(tmp_path / "run") == ["new"]
    assert names(tmp_path) == ["run"]


def test_a_file_is_not_replaced(tmp_path):
    (tmp_path / "run").write_text("a file")
    with (
        pytest.raises(NotADirectoryError, match="is a file"),
        atomic_directory(tmp_path / "run", overwrite=True),
    ):
        pass
    assert (tmp_path / "run").read_text() == "a file"


def test_a_relative_path_is_that_of_the_beginning(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with atomic_directory("run"):
        os.chdir("elsewhere")
    assert (tmp_path / "run").is_dir()


def test_a_link_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with atomic_directory(tmp_path / "link") as directory:
        (directory / "a").touch()
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "real") == ["a"]


def test_a_file_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "deep" / "model.safetensors"
    with atomic_file(target) as file:
        assert file.suffix == ".safetensors"
        file.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert names(tmp_path / "deep") == ["model.safetensors"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("existing", [False, True])
def test_a_failure_leaves_the_old_file(tmp_path, existing, error):
    target = tmp_path / "a.txt"
    if existing:
        target.write_text("old")

    def write():
        with atomic_file(target, overwrite=True) as file:
            file.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert names(tmp_path) == (["a.txt"] if existing else [])
    assert not existing or target.read_text() == "old"


def test_a_file_is_replaced_only_when_told_so(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    ran = []
    with pytest.raises(FileExistsError, match=r"a\.txt exists"), atomic_file(target):
        ran.append(1)
    assert not ran
    with atomic_file(target, overwrite=True) as file:
        file.write_text("new")
    assert target.read_text() == "new"
    with pytest.raises(IsADirectoryError, match="is a directory"), atomic_file(tmp_path, overwrite=True):
        pass
    assert names(tmp_path) == ["a.txt"]


def test_a_file_that_appears_meanwhile_is_kept(tmp_path):
    target = tmp_path / "a.txt"

    def write():
        with atomic_file(target) as file:
            file.write_text("ours")
            target.write_text("another process was quicker")

    with pytest.raises(FileExistsError):
        write()
    assert target.read_text() == "another process was quicker"
    assert names(tmp_path) == ["a.txt"]
