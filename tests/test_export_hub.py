"""`coordexp export --push`: to a hub on this machine that keeps what it is sent."""

from __future__ import annotations

import base64
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from coordexp.errors import UserError
from coordexp.publish.hub import push, require_hub

TOKEN = "hf_of_a_test"


@dataclass
class Hub:
    """A hub that takes files in the commit itself, as the real one takes small ones."""

    status: int = 200
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    url: str = ""

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        if path.endswith("/repos/create"):
            sent = json.loads(body)
            return {"url": f"{self.url}/{sent.get('organization')}/{sent['name']}"}
        if "/preupload/" in path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]
            return {"files": modes}
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"{self.url}/me/detector/commit/{'1' * 40}"
            return {"commitUrl": url, "commitOid": "1" * 40, "success": True}
        return {"id": "a/b", "sha": "0" * 40, "siblings": []}


@pytest.fixture
def hub(monkeypatch):
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            token = self.headers.get("Authorization")
            state.requests.append((self.path, str(token), body))
            content = json.dumps(state.answer(self.path, body)).encode()
            self.send_response(state.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", state.url)
        monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", state.url, raising=False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        yield state
        server.shutdown()


@pytest.fixture
def directory(tmp_path) -> Path:
    for name in ("README.md", "model.safetensors", "config.json"):
        (tmp_path / name).write_text(f"content of {name}")
    return tmp_path


def test_every_file_reaches_the_hub_in_a_private_repository(hub, directory):
    require_hub("me/detector")
    assert push(directory, "me/detector", "a message") == f"{hub.url}/me/detector"
    assert hub.files == {path.name: path.read_bytes() for path in directory.iterdir()}
    created = json.loads(hub.requests[0][2])
    assert (created["organization"], created["name"]) == ("me", "detector")
    assert created.get("private") is True or created.get("visibility") == "private"
    assert {token for _, token, _ in hub.requests} == {f"Bearer {TOKEN}"}
    (commit,) = [body for path, _, body in hub.requests if "/commit/" in path]
    assert b"a message" in commit


def test_refusal_of_the_hub_is_one_line(hub, directory):
    hub.status = 403
    with pytest.raises(UserError, match=r"--push me/detector: the hub did not take it \(.*403"):
        push(directory, "me/detector", "a message")


@pytest.mark.usefixtures("hub")
def test_hub_that_cannot_be_reached_is_one_line(directory, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="the hub did not take it"):
        push(directory, "me/detector", "a message")


def test_without_a_token_nothing_is_tried(hub, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match="no token for the hub"):
        require_hub("me/detector")
    assert hub.requests == []
