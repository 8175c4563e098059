"""As much of a hub as huggingface_hub asks for: info of models and data sets, HEAD and GET of files at a commit, private ones."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGE_BYTES = 4096
"""Files above it are announced as large files with their sha256, as the hub does with weights."""
INFO = re.compile(r"/api/(?:models|datasets)/(?P<repository>[^/]+/[^/]+)(?:/revision/(?P<revision>.+))?")
FILE = re.compile(r"/(?:datasets/)?(?P<repository>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")


@dataclass
class Repository:
    """One model or data set at one commit."""

    directory: Path
    commit: str
    token: str | None = None
    gated: bool = False
    """Described to everybody, its files are refused."""
    status: int | None = None
    """Instead of any answer."""
    announced_sha256: dict[str, str] = field(default_factory=dict)
    """Overrides what is announced for a file, as if it had been altered on the way."""


@dataclass
class Hub:
    """A running hub. `requests` holds (method, path) of everything that was asked."""

    url: str
    repositories: dict[str, Repository]
    requests: list[tuple[str, str]] = field(default_factory=list)


@contextmanager
def model_hub(repositories: dict[str, Repository]) -> Iterator[Hub]:
    """Serves repositories by "org/name" on a free port."""
    hub = Hub("", repositories)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, path))
            match = INFO.fullmatch(path) or FILE.fullmatch(path)
            repository = hub.repositories.get(match["repository"]) if match else None
            if match is None or repository is None:
                return self._refuse(404, "RepoNotFound")
            if repository.status is not None:
                return self._refuse(repository.status, "")
            if repository.gated and match.re is FILE:
                return self._refuse(403, "GatedRepo")
            if repository.token and self.headers.get("Authorization") != f"Bearer {repository.token}":
                return self._refuse(401, "RepoNotFound")
            if match["revision"] not in (None, "main", repository.commit):
                return self._refuse(404, "RevisionNotFound")
            if match.re is INFO:
                return self._send({}, json.dumps(_info(match["repository"], repository)).encode())
            path = repository.directory / match["name"]
            if not path.is_file():
                return self._refuse(404, "EntryNotFound")
            data = path.read_bytes()
            etag = hashlib.sha256(data).hexdigest()
            return self._send({"ETag": f'"{etag}"', "X-Repo-Commit": repository.commit}, data)

        def _send(self, headers: dict[str, str], data: bytes) -> None:
            self.send_response(200)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        def _refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """`requests` is the log."""

    return Handler


def _info(name: str, repository: Repository) -> dict[str, object]:
    siblings = []
    for path in sorted(path for path in repository.directory.rglob("*") if path.is_file()):
        data, file = path.read_bytes(), path.relative_to(repository.directory).as_posix()
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        sibling: dict[str, object] = {
            "rfilename": file,
            "size": len(data),
            "blobId": repository.announced_sha256.get(file, blob),
        }
        if len(data) > LARGE_BYTES:
            sha256 = repository.announced_sha256.get(file, hashlib.sha256(data).hexdigest())
            sibling["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 134}
        siblings.append(sibling)
    return {
        "_id": "1",
        "id": name,
        "modelId": name,
        "sha": repository.commit,
        "private": bool(repository.token),
        "siblings": siblings,
    }
