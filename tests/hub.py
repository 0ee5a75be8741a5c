"""A stand-in of the hub's HTTP API on this machine: repositories are created, and files are committed to them."""

import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from huggingface_hub import constants, hf_api

COMMIT = "c" * 40


class Hub(ThreadingHTTPServer):
    """Keeps what was uploaded.

    Attributes:
        repositories: settings with which each was created, by name.
        files: contents by repository and path.
        refuses: whether every request is refused.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, Any]] = {}
        self.files: dict[tuple[str, str], bytes] = {}
        self.refuses = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextlib.contextmanager
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The stand-in, as the hub of ``huggingface_hub``."""
    hub = Hub()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(hf_api, "ENDPOINT", hub.address, raising=False)
    monkeypatch.setenv("HF_TOKEN", "of the stand-in")
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        if self.server.refuses:
            return self._answer({"error": "You may not write here"}, 403)
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        _, _, kind, owner, name, action, *_ = path.split("/")
        repository = f"{owner}/{name}"
        assert kind == "models" and repository in self.server.repositories
        if action == "preupload":
            files = json.loads(body)["files"]
            return self._answer(
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
            )
        assert action == "commit", path
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                self.server.files[repository, line["value"]["path"]] = content
        address = f"{self.server.address}/{repository}/commit/{COMMIT}"
        return self._answer({"success": True, "commitOid": COMMIT, "commitUrl": address})

    def do_GET(self) -> None:
        self._answer({"sha": COMMIT, "id": "owner/name", "siblings": [], "name": "owner", "type": "user"})

    def _create(self, settings: dict[str, Any]) -> None:
        owner = settings.get("organization", "owner")
        repository = f"{owner}/{settings['name']}"
        self.server.repositories[repository] = settings
        self._answer({"url": f"{self.server.address}/{repository}", "name": repository, "id": "1"})

    def _answer(self, content: Any, code: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Quiet."""
