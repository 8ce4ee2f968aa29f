"""Commands that run networks ask for large pages, once, and stay the process that they were."""

import os
import subprocess
import sys

import pytest

from fdiv_jax.cli._large_pages import large_pages

ASKED = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
GLIBC = "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", {}) and (
    (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
)


@pytest.mark.skipif(not GLIBC, reason="the C library is another")
def test_they_are_asked_for_where_linux_gives_them_on_request(tmp_path):
    switch = tmp_path / "enabled"
    for text, expected in (
        ("always [madvise] never\n", ASKED),
        ("[always] madvise never\n", {}),
        ("always madvise [never]\n", {}),
    ):
        switch.write_text(text)
        assert large_pages({}, switch) in (expected, {})  # {}: an old glibc
    switch.write_text("always [madvise] never\n")
    assert large_pages({"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"}, switch) == {}
    assert large_pages({}, tmp_path / "none") == {}


@pytest.mark.skipif(not large_pages({}), reason="there are no large pages on request")
@pytest.mark.slow
def test_a_process_starts_again_once_and_keeps_its_number_arguments_and_exit_code(tmp_path):
    told = tmp_path / "told"
    program = (
        "import os, sys\n"
        f"with open({str(told)!r}, 'a') as file:\n"
        "    print(os.getpid(), os.environ.get('GLIBC_TUNABLES'), file=file)\n"
        "from fdiv_jax.cli import main\n"
        "sys.exit(main())\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    for command, starts in ((["sample", "no/such model", "a b"], 2), (["divergences", "--nothing"], 1)):
        told.unlink(missing_ok=True)
        running = subprocess.Popen(
            [sys.executable, "-c", program, *command], env=environment, stderr=subprocess.PIPE, text=True
        )
        _, complaint = running.communicate(timeout=120)
        assert running.returncode == 2
        assert "fdiv-jax: " in complaint
        lines = [line.split() for line in told.read_text().splitlines()]
        assert [int(number) for number, _ in lines] == [running.pid] * starts
        assert lines[-1][1] == (ASKED["GLIBC_TUNABLES"] if starts == 2 else "None")
