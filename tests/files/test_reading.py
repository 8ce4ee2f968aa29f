"""Files of strangers: read within bounds, never waited for, every mistake with its file and place."""

import json
import os
import socket
import tracemalloc
from pathlib import Path

import pytest

from fdiv_jax.files import check_regular, one_line, parse_json, read_bytes, read_json, read_text, shown

SOURCES = sorted(Path(__file__).parents[2].glob("fdiv_jax/**/*.py"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"column 1: not JSON \(Expecting value\)"),
        (b'{"a": 1,\n "b": }', r"line 2, column 7: not JSON"),
        (b"[" * 200_000, r"column 65: nested more than 64 deep"),
        (b'{"a":' * 200_000, r"column 321: nested more than 64 deep"),
        (b'{"a": ["]]]]", ' + b"\n[" * 64, r"line 64, column 1: nested more than 64 deep"),
        (b'"' + b'\\"[' * 300_000, r"not JSON \(Unterminated string"),
        (b"[" * 70 + b'"' * 500_000, r"column 65: nested"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', r"the key 'c' twice in one object"),
        (b'{"a": NaN}', r"NaN, expected a finite number"),
        (b'{"a": [-Infinity]}', r"-Infinity, expected a finite number"),
        (b'{"a": 1e999}', r"1e999, expected a finite number"),
        (b'{"a": ' + b"9" * 100_000 + b"}", r"not JSON \(Exceeds the limit"),
        (b'{"a": \n"\xff"}', r"line 2: not UTF-8 \(byte 0xff\)"),
        (json.dumps({"a": 1}).encode("utf-16"), r"line 1: not UTF-8"),
        (b"[1, 2]", r"expected a JSON object, got \[1, 2\]"),
        (json.dumps("x" * 900_000).encode(), r"expected a JSON object, got 'xxx"),
        (b"7", r"expected a JSON object, got 7"),
        (b" " * (16 << 20) + b"{}", r"more than 16777216 bytes"),
    ],
)
def test_damaged_json_is_one_line_with_the_file_and_the_place(content, message, tmp_path):
    path = tmp_path / "strange.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_json(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    assert len(text) < 600


@pytest.mark.parametrize("value", [{}, {"a": [1, 2.5, None, True, "é"], "b": {"c": {}}}, {"1e5": 1e5}])
def test_good_json_is_what_pythons_parser_reads(value, tmp_path):
    for mark in ("", "\ufeff"):
        (tmp_path / "good.json").write_text(mark + json.dumps(value, ensure_ascii=False), encoding="utf-8")
        assert read_json(tmp_path / "good.json") == value


def test_what_diffusers_writes_of_infinity_is_read_where_it_may_be(tmp_path):
    (tmp_path / "a.json").write_text('{"lambda_min_clipped": -Infinity}')
    assert read_json(tmp_path / "a.json", finite=False) == {"lambda_min_clipped": float("-inf")}


def test_brackets_in_strings_are_not_depth():
    text = json.dumps({"a": "[{" * 500, "b": ['\\"[' * 100]})
    assert parse_json(text, "x") == json.loads(text)


def special(kind, path):
    """Something that is no file, from which reading may wait for ever."""
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()


@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "directory"])
def test_what_is_no_file_is_refused_and_never_waited_for(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # sockets have short names
    path = Path("x.json")
    special(kind, path)
    for read in (read_bytes, read_text, read_json):
        with pytest.raises((ValueError, IsADirectoryError), match=r"x\.json is a .*, expected a file"):
            read(path)
    if kind != "directory":
        with pytest.raises(ValueError, match=r"x\.json is a"):
            check_regular(tmp_path)


def test_missing_files_are_named(tmp_path):
    for path in (tmp_path / "none.json", tmp_path / "link.json"):
        if path.name == "link.json":
            path.symlink_to("nowhere")
        with pytest.raises(FileNotFoundError, match=path.name):
            read_json(path)


def test_messages_are_short_whatever_they_show():
    deep = []
    for _ in range(5000):
        deep = [deep]
    for value in (
        "x" * 10**7,
        ["y" * 10**6] * 1000,
        {"k" * 10**6: 1},
        deep,
        10**10_000,
        [1 << 10**6],
        "a\nb",
    ):
        tracemalloc.start()
        text = shown(value)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(text) <= 84
        assert "\n" not in text
        assert peak < 100_000
    assert shown("it's") == repr("it's")
    assert shown([1, "a"]) == "[1, 'a']"
    assert one_line("a\n\n  b" + "c" * 1000, 10) == "a bcccc..."


def test_nothing_reads_json_past_the_one_reader():
    found = [
        f"{path.name}: {word}"
        for path in SOURCES
        for word in ("json.load(", "json.loads(")
        if path.name != "json_files.py" and word in path.read_text()
    ]
    known = {"run_directory.py: json.loads(", "directory.py: json.loads(", "_command.py: json.load("}
    assert set(found) <= known  # of what was just written by json.dumps, of a library's string, and a text
