"""What a release and a container are made of: the recipe names files, extras and commands that are there."""

import ast
import fnmatch
import importlib.metadata
import re
import shlex
import subprocess
import tomllib

import pytest

from tests.pages import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions():
    """(stage, instruction, rest) of each line of the Dockerfile."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    text = re.sub(r"\\\n\s*", " ", text)
    stage = ""
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stage = rest.rpartition(" AS ")[2]
        yield stage, word, rest


def test_the_container_is_made_of_what_is_here():
    known = {"FROM", "RUN", "COPY", "WORKDIR", "USER", "ENV", "ENTRYPOINT", "CMD"}
    stages, images = [], []
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for stage, word, rest in instructions():
        assert word in known, word
        if word == "FROM":
            image, name = re.fullmatch(r"(\S+) AS (\w+)", rest).groups()
            stages.append(name)
            images.append(image)
        if word == "COPY":
            *sources, _ = rest.split()
            if sources[0].startswith("--from="):
                assert sources[0].removeprefix("--from=") in stages[: stages.index(stage)]
                continue
            for source in sources:
                assert (ROOT / source).exists(), source
                assert any(fnmatch.fnmatch(source.removeprefix("./"), each) for each in let_in), source
        if word == "ENTRYPOINT":
            (command,) = re.findall(r'"([^"]+)"', rest)
            assert command in PROJECT["scripts"]
        if word == "RUN":
            for extra in re.findall(r"\[(\w+)\]", rest):
                assert extra in PROJECT["optional-dependencies"]
    assert stages == ["build", "cpu", "cuda"]
    assert all(re.fullmatch(r"python:3\.1[1-9]-slim", image) for image in images)


def test_the_container_does_not_run_as_root_and_every_command_of_its_shell_exists():
    users = {stage: rest for stage, word, rest in instructions() if word == "USER"}
    assert set(users) == {"cpu", "cuda"}
    assert "root" not in users.values()
    # What Debian's slim image of Python has beside the shell's own words.
    there = {"python", "useradd", "rm", "chown", "set"}
    for _, word, rest in instructions():
        for command in re.split(r"\s*&&\s*", rest) if word == "RUN" else ():
            assert shlex.split(command)[0] in there, command


def test_the_recipe_reads_as_shell():
    for _, word, rest in instructions():
        if word == "RUN":
            assert subprocess.run(["sh", "-n", "-c", rest], check=False).returncode == 0, rest


def test_the_metadata_say_what_is_known():
    citation = (ROOT / "CITATION.cff").read_text()
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert f"version: {PROJECT['version']}\n" in citation
    assert f"## {PROJECT['version']}\n" in changelog
    assert importlib.metadata.version("fdiv-jax") == PROJECT["version"]
    assert {"cuda12", "tpu", "docs", "release", "interop", "dev"} <= set(PROJECT["optional-dependencies"])


def described(repository):
    """The function of setup.py that makes the README fit for a package index, without running a setup."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    wanted = [n for n in tree.body if getattr(n, "name", "") == "described" or "_LINK" in ast.unparse(n)[:8]]
    names = {"re": re, "REPOSITORY": repository}
    exec(compile(ast.Module(wanted, []), "setup.py", "exec"), names)
    return names["described"]


@pytest.mark.parametrize("repository", ["", "https://example.org/owner/fdiv-jax/blob/v1"])
def test_a_package_index_gets_links_that_work_there(repository):
    text = described(repository)(
        (ROOT / "README.md").read_text() + "\n[a](docs/x.md) [b](https://example.org/) [c](#d)"
    )
    assert not re.search(r"\]\((?!https://|#)", text)
    assert ("paper_figures/erasure.png?raw=true" in text) == bool(repository)
    assert f"[a]({repository}/docs/x.md) [b](https" in text if repository else "a [b](https" in text
    assert "pip install fdiv-jax" in text
