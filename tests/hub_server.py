"""A hub of one's own: an HTTP server that makes repositories and takes commits, in memory."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest

__all__ = ["TOKEN", "Hub", "hub_server"]

TOKEN = "hf_" + "NotAToken" * 4


class Hub:
    """What was sent: repositories with their settings, files by name, and the keys that were shown."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict] = {}
        self.files: dict[str, bytes] = {}
        self.keys: set[str | None] = set()
        self.status = 200


def _answer(hub: Hub, path: str, body: bytes, address: str) -> dict:
    if path == "/api/repos/create":
        asked = json.loads(body)
        hub.repositories["/".join(filter(None, (asked.get("organization"), asked["name"])))] = asked
        return {"url": f"{address}/someone/{asked['name']}", "name": f"someone/{asked['name']}"}
    if "/preupload/" in path:
        names = [each["path"] for each in json.loads(body)["files"]]
        return {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]}
    if "/commit/" in path:
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return {"success": True, "commitOid": "0" * 40, "commitUrl": f"{address}/someone/x/commit/{'0' * 40}"}
    return {"errors": [], "warnings": [], "name": "someone", "siblings": [], "id": "someone/x"}


@contextmanager
def hub_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """huggingface-hub talks to this hub alone, with a token in the environment, till the block ends."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            hub.keys.add(self.headers.get("Authorization"))
            answer = _answer(hub, self.path, body, address) if hub.status == 200 else {"error": "no"}
            content = json.dumps(answer).encode()
            self.send_response(hub.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
