"""Work in pieces: in this process, and by a Ray cluster whose workers fail and die."""

import importlib.util
import os
import signal
import sys

import pytest

from fdiv_jax import cli
from fdiv_jax.distributed import tasks
from fdiv_jax.distributed.tasks import RayExecutor, here


def test_here_the_pieces_are_done_in_turn():
    seen = []
    results = here(lambda piece: seen.append(piece) or 10 * piece, {"a": 1, "b": 2})
    assert next(results) == ("a", 10)
    assert seen == [1]
    assert list(results) == [("b", 20)]


def test_without_ray_the_first_line_says_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["sweep", "fashion", "--target", "sneaker", "--divergences", "kl", "--executor", "ray"]
    assert cli.main([*words, "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "fdiv-jax: Ray is not installed: pip install 'fdiv-jax[ray]'\n"
    assert not (tmp_path / "out").exists()


def test_a_machine_has_one_task_at_least():
    with pytest.raises(ValueError, match="0 tasks on a machine, expected at least 1"):
        RayExecutor(0)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not here")
def test_errors_of_workers_and_their_deaths(tmp_path, monkeypatch, capfd):
    """Functions of a test are pickled whole, so that the workers need not find this file."""
    monkeypatch.setattr(tasks, "_RETRIES", 1)

    def work(piece):
        """Each of the pieces fails once in its own way, and some again."""
        first = not (tmp_path / piece).exists()
        (tmp_path / piece).touch()
        if piece == "dies always" or (first and piece == "dies once"):
            os.kill(os.getpid(), signal.SIGKILL)
        if first and piece == "asks for another":
            raise LookupError(piece)
        if piece == "is wrong":
            raise ValueError("what is wrong, in one line")
        import ray

        return os.getpid(), ray.util.get_node_ip_address()

    executor = RayExecutor(2, again=(LookupError,))
    done = dict(executor(work, {name: name for name in ("dies once", "asks for another", "is well")}))
    assert set(done) == {"dies once", "asks for another", "is well"}
    assert {address for _, address in done.values()} == {"127.0.0.1"}
    assert os.getpid() not in {number for number, _ in done.values()}
    with pytest.raises(ValueError, match=r"^what is wrong, in one line$"):
        list(executor(work, {"one": "is wrong"}))
    with pytest.raises(ChildProcessError, match="two: its worker died 2 times, the last time with"):
        list(executor(work, {"two": "dies always"}))
    assert capfd.readouterr() == ("", "")
