"""Serves the page: on loopback unless told otherwise, with its own files alone and nothing from elsewhere."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fdiv_jax.app.runs import Studio

__all__ = ["OwnOnly", "serve", "start"]

_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:"
)
"""What a browser may load for the page: nothing from another server."""
_FOREIGN = re.compile(
    rb"<link\b[^>]*\bhref=[\"']https?://[^>]*>|<script\b[^>]*\bsrc=[\"']https?://[^>]*>\s*</script>"
)
"""What gradio's page loads from other servers: fonts, and a script for pages that frame it."""

Message = MutableMapping[str, Any]
Application = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]
"""An ASGI application."""


class OwnOnly:
    """Around an ASGI application: its pages load nothing from other servers, and it takes no files."""

    def __init__(self, app: Application):
        self._app = app

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"].rstrip("/").endswith("/upload"):
            await send(
                {"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]}
            )
            await send({"type": "http.response.body", "body": b"the page takes no files"})
        else:
            await self._app(scope, receive, _cleaned(send))


def _cleaned(send: Callable[[Message], Awaitable[None]]) -> Callable[[Message], Awaitable[None]]:
    """Sends pages without what they would load from elsewhere; everything else as it is."""
    begun: list[Message] = []
    body = bytearray()

    async def cleaned(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [(name, value) for name, value in message["headers"] if name != b"content-length"]
            if any(name == b"content-type" and value.startswith(b"text/html") for name, value in headers):
                policy = (b"content-security-policy", _POLICY.encode())
                begun.append({**message, "headers": [*headers, policy, (b"referrer-policy", b"no-referrer")]})
                return
        elif begun:
            body.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            await send(begun.pop())
            message = {"type": "http.response.body", "body": _FOREIGN.sub(b"", bytes(body))}
        await send(message)

    return cleaned


def start(host: str, port: int, home: Path) -> tuple[Any, Studio]:
    """Serve the page, with the files of its runs in `home`; gives gradio's Blocks once it is up.

    Raises:
        NotImplementedError: gradio is not installed.
        OSError: the port is taken.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(home / "served")
    try:
        import gradio  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise NotImplementedError("the page needs the package gradio: pip install 'fdiv-jax[app]'") from None
    from starlette.middleware import Middleware  # pyright: ignore[reportMissingImports]

    from fdiv_jax.app._page import CSS, page, theme
    from fdiv_jax.app.runs import Studio

    studio = Studio(home / "runs")
    blocks = page(studio)
    blocks.queue(max_size=64, api_open=False)
    blocks.launch(
        server_name=host,
        server_port=port,
        theme=theme(),
        css=CSS,
        share=False,
        quiet=True,
        footer_links=[],
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        prevent_thread_lock=True,
        app_kwargs={"middleware": [Middleware(OwnOnly)], "docs_url": None, "redoc_url": None},
    )
    return blocks, studio


def serve(host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serve the page until interrupted; its files are in a temporary directory that goes with it.

    Raises:
        NotImplementedError: gradio is not installed.
        OSError: the port is taken.
    """
    with tempfile.TemporaryDirectory(prefix="fdiv-jax-app-") as home:
        blocks, studio = start(host, port, Path(home))
        print(f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}   (Ctrl+C ends it)", flush=True)
        try:
            blocks.block_thread()
        finally:
            studio.close()
