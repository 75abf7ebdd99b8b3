"""A hub on loopback: the endpoints that neuneu uses, with faults.

Large files are redirected to a second server, as a hub does to its storage. The fixture is `hub`.
"""

import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from loopback import FaultyServer, send

LFS_BYTES = 1000
"""Files of this size or more are Git LFS files, with a SHA-256 and on the second server."""


class HubServer(FaultyServer):
    """Repositories as `{repo: {branch: {file: content}}}`."""

    def __init__(self) -> None:
        super().__init__()
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.tokens: set[str | None] = set()
        self.tokens_at_store: set[str | None] = set()
        self._refusals = 0
        self._refused_path = ""
        self._status = 503
        self._wrong_sizes: set[str] = set()
        self._wrong_hashes: set[str] = set()
        self.endpoint = f"http://127.0.0.1:{self._serve(self._answer)}"
        self._store = f"http://localhost:{self._serve(self._answer_at_store)}"

    def add(self, repo: str, branch: str, files: dict[str, bytes]) -> str:
        """Add a branch; return its commit."""
        self.repos.setdefault(repo, {})[branch] = files
        return commit_of(repo, branch)

    def fail_with_503(self, n: int, path: str = "") -> None:
        """Answer the next `n` requests with `path` in their path with 503."""
        self.fail_with(503, n, path)

    def fail_with(self, status: int, n: int, path: str = "") -> None:
        """Like `fail_with_503`; paths of large files on the second server are `store:NAME`."""
        with self._lock:
            self._refusals, self._refused_path, self._status = n, path, status

    def tell_wrong_size(self, name: str) -> None:
        """List a file as one byte longer than it is."""
        self._wrong_sizes.add(name)

    def tell_wrong_hash(self, name: str) -> None:
        """List a file with a wrong SHA-256."""
        self._wrong_hashes.add(name)

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(request.path).path)
        self.tokens.add(request.headers.get("Authorization"))
        if self._refuses(request, path):
            return send(request, self._status, [], b"not now")
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            return self._answer_api(request, "/".join(parts[2:4]), parts[4:])
        repo, name = "/".join(parts[:2]), "/".join(parts[4:])
        branch = self._branch(repo, parts[3])
        content = self.repos.get(repo, {}).get(branch, {}).get(name)
        if content is None:
            return send(request, 404, [("X-Error-Code", "EntryNotFound")], b"")
        headers = {
            "X-Repo-Commit": commit_of(repo, branch),
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        if len(content) < LFS_BYTES:
            return self._send_file(request, content, headers)
        headers["X-Linked-Size"] = str(len(content))
        headers["X-Linked-ETag"] = headers.pop("ETag")
        headers["Location"] = f"{self._store}/{repo}/{branch}/{name}?signature=x"
        return send(request, 302, headers.items(), b"")

    def _answer_api(self, request: BaseHTTPRequestHandler, repo: str, rest: list[str]) -> None:
        branches = self.repos.get(repo)
        if branches is None:
            return send(request, 404, [("X-Error-Code", "RepoNotFound")], b"")
        if rest == ["refs"]:
            listed = [
                {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit_of(repo, name)}
                for name in branches
            ]
            return _send_json(request, {"branches": listed, "converts": [], "tags": []})
        branch = self._branch(repo, rest[1])
        if branch not in branches:
            return send(request, 404, [("X-Error-Code", "RevisionNotFound")], b"")
        siblings = [self._sibling(name, data) for name, data in branches[branch].items()]
        sha = commit_of(repo, branch)
        return _send_json(request, {"id": repo, "sha": sha, "siblings": siblings})

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
            return send(request, self._status, [], b"not now")
        content = self.repos[f"{owner}/{name}"][branch][file]
        return self._send_file(request, content, {"Accept-Ranges": "bytes"})

    def _refuses(self, request: BaseHTTPRequestHandler, path: str) -> bool:
        """Record a request; return whether it has to fail."""
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
        limit = self._limit(len(body)) if request.command == "GET" else None
        send(request, status, headers.items(), body, limit=limit)

    def _branch(self, repo: str, revision: str) -> str:
        """Return the branch of a commit; other names are returned as they are."""
        branches = self.repos.get(repo, {})
        return next((name for name in branches if commit_of(repo, name) == revision), revision)


def commit_of(repo: str, branch: str) -> str:
    """Return forty hex digits, like a Git commit."""
    return hashlib.sha1(f"{repo}@{branch}".encode()).hexdigest()


def _send_json(request: BaseHTTPRequestHandler, content: Any) -> None:
    send(request, 200, [("Content-Type", "application/json")], json.dumps(content).encode())


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """An empty hub at `HF_ENDPOINT`; waits between retries are short."""
    constants = pytest.importorskip("huggingface_hub.constants")
    server = HubServer()
    monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
    monkeypatch.setenv("HF_TOKEN", "hf_test_token")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("neuneu.scoring.checkpoints.hub._WAIT_S", 0.01)
    yield server
    server.close()
