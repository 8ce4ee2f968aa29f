"""What the server gives away and what it does not, without a browser."""

import re
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from fdiv_jax import cli

pytestmark = pytest.mark.filterwarnings("ignore")  # gradio's own
ROOT = Path(__file__).resolve().parents[2]


def get(address, data=None, **headers):
    """Status, headers and body."""
    request = urllib.request.Request(address, data, headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=120) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def test_without_gradio_one_line_says_what_to_install(monkeypatch, capsys):
    import sys

    monkeypatch.setitem(sys.modules, "gradio", None)
    assert cli.main(["app"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "pip install 'fdiv-jax[app]'" in told


def test_a_port_that_is_none_is_refused(capsys):
    assert cli.main(["app", "--port", "70000"]) == 2
    assert "--port must be from 1 to 65535, got 70000" in capsys.readouterr().err


@pytest.mark.slow
def test_the_page_names_no_other_server(served):
    status, headers, body = get(f"{served}/")
    assert status == 200
    assert "default-src 'self'" in headers["content-security-policy"]
    loaded = re.findall(rb"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=[\"'](?:https?:)?//[^>]*>", body)
    assert not [tag for tag in loaded if served.encode() not in tag]
    assert b"fonts.googleapis" not in body
    assert b"fdiv-jax" in body


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/proc/self/environ",
        str(ROOT / "pyproject.toml"),
        "pyproject.toml",
        "../../../../etc/passwd",
        "%2Fetc%2Fpasswd",
        "{outside}",
    ],
)
def test_files_of_the_machine_are_refused(served, path, tmp_path):
    outside = tmp_path / "secret.txt"
    outside.write_text("[project]")
    for route in ("file=", "file/", "api/file="):
        status, _, body = get(f"{served}/gradio_api/{route}{path.format(outside=outside)}")
        assert status in (400, 403, 404, 405)
        assert b"root:" not in body
        assert b"[project]" not in body
        assert b"PATH=" not in body


@pytest.mark.slow
def test_uploads_are_refused(served):
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\nhello\r\n--x--\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    for path in ("/gradio_api/upload", "/gradio_api/upload/", "/upload"):
        assert get(f"{served}{path}", body, **kind)[0] in (403, 404, 405)
    assert get(f"{served}/gradio_api/upload", body, **kind)[0] == 403


def test_the_space_is_complete():
    """What a Space reads: the header of README.md, the requirements, an app.py that serves when it is run."""
    import ast
    import importlib.util
    import tomllib

    import yaml

    space = ROOT / "spaces"
    _, header, text = (space / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(header)
    assert (card["sdk"], card["app_file"]) == ("gradio", "app.py")
    assert re.fullmatch(r"\d+\.\d+\.\d+", card["sdk_version"])
    assert {card["colorFrom"], card["colorTo"]} <= {
        "red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray",
    }  # fmt: skip
    assert len(card["short_description"]) <= 60
    assert text.strip()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (space / "requirements.txt").read_text().split() == [f"{project['name']}[app]"]
    (least,) = project["optional-dependencies"]["app"]
    wanted = [int(part) for part in least.removeprefix("gradio>=").split(".")]
    assert [int(part) for part in card["sdk_version"].split(".")] >= wanted
    source = (space / "app.py").read_text()
    assert len(ast.parse(source).body) <= 3
    spec = importlib.util.spec_from_file_location("space", space / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # serves nothing: it is not run as a program
    assert callable(module.serve)
