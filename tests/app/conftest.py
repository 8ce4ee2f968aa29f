"""What the tests of the page share: a model that takes no time, and the page as it is served."""

import asyncio
import contextlib
import gc
import socket

import pytest

from fdiv_jax.app import runs
from fdiv_jax.worlds.erasure_scores import ErasureCounts
from tests.tiny import tiny_pipeline

COUNTS = ErasureCounts(3, 4, 5, 6)


@pytest.fixture(scope="module")
def tiny():
    """Runs are of a model that takes no time, without a judge."""
    pipe = tiny_pipeline(latent=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "_pipeline", lambda: pipe)
        patch.setattr(runs, "_counted", lambda pipeline, target: COUNTS)
        patch.setattr(runs, "_counts", lambda target: COUNTS)
        for name in ("_RANK", "_IMAGES", "_BATCH"):
            patch.setattr(runs, name, 2)
        yield pipe


@pytest.fixture(scope="module")
def served(tiny, tmp_path_factory):
    """The address of the page."""
    pytest.importorskip("gradio", reason="the extra `app` is not installed")
    from fdiv_jax.app.server import start

    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    blocks, studio = start("127.0.0.1", port, tmp_path_factory.mktemp("served"))
    yield f"http://127.0.0.1:{port}"
    studio.close()
    blocks.close()
    # Event loops that gradio leaves open, the last one as that of this thread, are told of here, and not in
    # another test.
    asyncio.set_event_loop(None)
    gc.collect()
