"""A hub on loopback: the few addresses that neuneu asks, with faults that are told beforehand.

Large files are redirected to a second server, as a hub does to its store. The fixture is
`hub`.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

LFS_BYTES = 1000
"""Files from this size on are Git LFS files: they have a SHA-256 and lie on the other server."""


class HubServer:
    """Repositories as `{repo: {branch: {file: content}}}`."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.requests: list[tuple[str, str]] = []
        self.tokens: set[str | None] = set()
        self.tokens_at_store: set[str | None] = set()
        self._lock = threading.Lock()
        self._refusals = 0
        self._refused_path = ""
        self._status = 503
        self._cuts = (0, 0)
        self._wrong_sizes: set[str] = set()
        self._wrong_hashes: set[str] = set()
        self._hub = self._serve(self._answer)
        self._store = self._serve(self._answer_at_store)
        self.endpoint = f"http://127.0.0.1:{self._hub.server_port}"

    def add(self, repo: str, branch: str, files: dict[str, bytes]) -> str:
        """Puts a branch there; returns its commit."""
        self.repos.setdefault(repo, {})[branch] = files
        return commit_of(repo, branch)

    def fail_with_503(self, n: int, path: str = "") -> None:
        """Answers the next `n` requests whose path holds a text with 503."""
        self.fail_with(503, n, path)

    def fail_with(self, status: int, n: int, path: str = "") -> None:
        """As `fail_with_503`; paths at the store of large files read `store:NAME`."""
        with self._lock:
            self._refusals, self._refused_path, self._status = n, path, status

    def cut_after(self, n_bytes: int, times: int) -> None:
        """Closes the connection after `n_bytes` of the next `times` longer files."""
        with self._lock:
            self._cuts = (n_bytes, times)

    def tell_wrong_size(self, name: str) -> None:
        """Lists a file as one byte longer than it is."""
        self._wrong_sizes.add(name)

    def tell_wrong_hash(self, name: str) -> None:
        """Lists a file with the SHA-256 of another."""
        self._wrong_hashes.add(name)

    def count(self, method: str, contains: str = "") -> int:
        """How many requests of a method came whose path holds a text."""
        return sum(name == method and contains in path for name, path in self.requests)

    def close(self) -> None:
        for server in (self._hub, self._store):
            server.shutdown()
            server.server_close()

    def _serve(self, answer: Any) -> ThreadingHTTPServer:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def handle_any(self) -> None:
                answer(self)

            do_GET = do_HEAD = handle_any

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(request.path).path)
        self.tokens.add(request.headers.get("Authorization"))
        if self._refuses(request, path):
            return send(request, self._status, b"not now")
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            return self._answer_api(request, "/".join(parts[2:4]), parts[4:])
        repo, name = "/".join(parts[:2]), "/".join(parts[4:])
        branch = self._branch(repo, parts[3])
        content = self.repos.get(repo, {}).get(branch, {}).get(name)
        if content is None:
            return send(request, 404, b"", {"X-Error-Code": "EntryNotFound"})
        headers = {
            "X-Repo-Commit": commit_of(repo, branch),
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        if len(content) < LFS_BYTES:
            return self._send_file(request, content, headers)
        headers["X-Linked-Size"] = str(len(content))
        headers["X-Linked-ETag"] = headers.pop("ETag")
        where = f"http://localhost:{self._store.server_port}/{repo}/{branch}/{name}?signature=x"
        return send(request, 302, b"", {**headers, "Location": where})

    def _answer_api(self, request: BaseHTTPRequestHandler, repo: str, rest: list[str]) -> None:
        branches = self.repos.get(repo)
        if branches is None:
            return send(request, 404, b"", {"X-Error-Code": "RepoNotFound"})
        if rest == ["refs"]:
            listed = [
                {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit_of(repo, name)}
                for name in branches
            ]
            return send_json(request, {"branches": listed, "converts": [], "tags": []})
        branch = self._branch(repo, rest[1])
        if branch not in branches:
            return send(request, 404, b"", {"X-Error-Code": "RevisionNotFound"})
        siblings = [self._sibling(name, data) for name, data in branches[branch].items()]
        sha = commit_of(repo, branch)
        return send_json(request, {"id": repo, "sha": sha, "siblings": siblings})

    def _sibling(self, name: str, content: bytes) -> dict[str, Any]:
        size = len(content) + (name in self._wrong_sizes)
        sibling: dict[str, Any] = {"rfilename": name, "size": size, "blobId": "0" * 40}
        if len(content) >= LFS_BYTES:
            hashed = content + b"?" * (name in self._wrong_hashes)
            sha256 = hashlib.sha256(hashed).hexdigest()
            sibling["lfs"] = {"size": size, "sha256": sha256, "pointerSize": 130}
        return sibling

    def _answer_at_store(self, request: BaseHTTPRequestHandler) -> None:
        owner, name, branch, file = unquote(urlsplit(request.path).path).strip("/").split("/")
        self.tokens_at_store.add(request.headers.get("Authorization"))
        if self._refuses(request, f"store:{file}"):
            return send(request, self._status, b"not now")
        content = self.repos[f"{owner}/{name}"][branch][file]
        return self._send_file(request, content, {"Accept-Ranges": "bytes"})

    def _refuses(self, request: BaseHTTPRequestHandler, path: str) -> bool:
        """Notes a request; whether a fault awaits it."""
        with self._lock:
            self.requests.append((request.command, path))
            refused = self._refusals > 0 and self._refused_path in path
            self._refusals -= refused
        return refused

    def _send_file(
        self, request: BaseHTTPRequestHandler, content: bytes, headers: dict[str, str]
    ) -> None:
        start = int(request.headers.get("Range", "bytes=0-")[6:].partition("-")[0])
        status = 206 if "Range" in request.headers else 200
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:]
        with self._lock:
            n_bytes, times = self._cuts
            cut = times > 0 and request.command == "GET" and len(body) > n_bytes
            if cut:
                self._cuts = (n_bytes, times - 1)
        send(request, status, body, headers, limit=n_bytes if cut else None)

    def _branch(self, repo: str, revision: str) -> str:
        """The branch of a commit; other names stay."""
        branches = self.repos.get(repo, {})
        return next((name for name in branches if commit_of(repo, name) == revision), revision)


def commit_of(repo: str, branch: str) -> str:
    """A name of forty hex digits, as Git gives a commit."""
    return hashlib.sha1(f"{repo}@{branch}".encode()).hexdigest()


def send_json(request: BaseHTTPRequestHandler, content: Any) -> None:
    send(request, 200, json.dumps(content).encode(), {"Content-Type": "application/json"})


def send(
    request: BaseHTTPRequestHandler,
    status: int,
    body: bytes,
    headers: dict[str, str] | None = None,
    *,
    limit: int | None = None,
) -> None:
    """Answers; with a limit only the first bytes of the body, and then hangs up."""
    request.send_response_only(status)
    for name, value in (headers or {}).items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body[:limit])
    if limit is not None:
        request.close_connection = True


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """An empty hub; `HF_ENDPOINT` names it, and waits between requests are short."""
    constants = pytest.importorskip("huggingface_hub.constants")
    server = HubServer()
    monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
    monkeypatch.setenv("HF_TOKEN", "hf_test_token")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("neuneu.scoring.checkpoints.hub._WAIT_S", 0.01)
    yield server
    server.close()
