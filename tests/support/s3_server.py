"""A real S3 server on loopback, behind a proxy that can refuse, cut off and lose requests.

The fixture is `s3`. It also sets the AWS variables, so code under test needs no configuration.
"""

import http.client
import importlib.util
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Final
from urllib.parse import urlsplit

import pytest
from loopback import FaultyServer, send

ACCESS_KEY: Final = "test-access-key-id"
SECRET_KEY: Final = "test-secret-access-key"
_HOP_BY_HOP: Final = {"connection", "content-length", "date", "server", "transfer-encoding"}


class S3Server(FaultyServer):
    """A new bucket behind a faulty proxy; each fault applies to the next requests."""

    def __init__(self, upstream: tuple[str, int]) -> None:
        super().__init__()
        self.bucket = f"bucket-{uuid.uuid4().hex[:8]}"
        self.bytes_sent = 0
        self._upstream = upstream
        self._refusals = 0
        self._refuse_until = 0.0
        self._losses: tuple[str, int] = ("", 0)
        self._refused_access = ""
        self._hook: tuple[str, int, Callable[[], object]] | None = None
        self.endpoint = f"http://127.0.0.1:{self._serve(self._answer)}"
        status, _, body = self._forward("PUT", f"/{self.bucket}", {}, b"")
        assert status == 200, body

    def fail_with_503(self, n: int) -> None:
        """Answer the next `n` requests with 503."""
        with self._lock:
            self._refusals = n

    def fail_for(self, seconds: float) -> None:
        """Answer all requests with 503 for some seconds."""
        self._refuse_until = time.monotonic() + seconds

    def lose_answers(self, method: str, times: int) -> None:
        """Execute the next `times` requests of a method, but do not answer them."""
        with self._lock:
            self._losses = (method, times)

    def refuse_access(self, message: str) -> None:
        """Answer all requests with 403 and a message from now on; an empty message ends it."""
        self._refused_access = message

    def when(self, method: str, *, at: int, do: Callable[[], object]) -> None:
        """Call `do` before the `at`-th request of a method from now on is forwarded."""
        with self._lock:
            self._hook = (method, at, do)

    def put(self, key: str, content: bytes) -> None:
        """Write an object without the proxy."""
        status, _, body = self._forward("PUT", f"/{self.bucket}/{key}", _SIGNED, content)
        assert status == 200, body

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        body = _body(request)
        method, path = request.command, request.path
        with self._lock:
            self.requests.append((method, path))
            refused = self._refusals > 0 or time.monotonic() < self._refuse_until
            self._refusals = max(0, self._refusals - 1)
            do = self._due(method)
        if refused:
            return send(request, 503, _XML, _error("ServiceUnavailable", "Please reduce load."))
        if self._refused_access:
            return send(request, 403, _XML, _error("AccessDenied", self._refused_access))
        if do is not None:
            do()
        status, headers, content = self._forward(method, path, dict(request.headers), body)
        with self._lock:
            lost = self._losses[1] > 0 and self._losses[0] == method
            if lost:
                self._losses = (method, self._losses[1] - 1)
        if lost:
            request.close_connection = True
            return None
        with self._lock:
            self.bytes_sent += 0 if method == "HEAD" else len(content)
        is_download = method == "GET" and status in {200, 206} and "list-type" not in path
        kept = [(name, value) for name, value in headers if name.lower() not in _HOP_BY_HOP]
        limit = self._limit(len(content)) if is_download else None
        return send(request, status, kept, content, limit=limit)

    def _due(self, method: str) -> Callable[[], object] | None:
        if self._hook is None or self._hook[0] != method:
            return None
        _, at, do = self._hook
        self._hook = (method, at - 1, do) if at > 1 else None
        return do if at == 1 else None

    def _forward(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(*self._upstream, timeout=60)
        try:
            gone = {"expect", "transfer-encoding"}
            kept = {key: value for key, value in headers.items() if key.lower() not in gone}
            connection.request(method, path, body=body, headers=kept)
            response = connection.getresponse()
            content = response.read()
            if method == "HEAD":
                content = b"\0" * int(response.getheader("Content-Length", "0"))
            return response.status, response.getheaders(), content
        finally:
            connection.close()


_SIGNED: Final = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=any/20260101/us-east-1/s3/aws4_request"
}
_XML: Final = [("Content-Type", "application/xml")]


def _error(code: str, message: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()


@pytest.fixture(scope="session")
def s3_upstream() -> Iterator[tuple[str, int]]:
    """The S3 server itself, one for all tests.

    It has its own process, because vLLM in the tests' process inspects all loaded modules and fails
    on those of the server.
    """
    if importlib.util.find_spec("moto") is None:
        pytest.skip("moto is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = free.getsockname()
    command = [sys.executable, "-m", "moto.server", "-H", address[0], "-p", str(address[1])]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(address, timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, "the S3 server exited"
                assert time.monotonic() < deadline, "the S3 server does not answer"
                time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def s3(s3_upstream: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """An empty bucket behind a faulty proxy."""
    pytest.importorskip("s3fs")
    server = S3Server(s3_upstream)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "NO_PROXY": str(urlsplit(server.endpoint).hostname),
    }.items():
        monkeypatch.setenv(name, value)
    yield server
    server.close()


def _body(request: BaseHTTPRequestHandler) -> bytes:
    """Return the body, also if it is sent in chunks, as Arrow's client does."""
    if "chunked" not in request.headers.get("Transfer-Encoding", ""):
        return request.rfile.read(int(request.headers.get("Content-Length", 0)))
    parts = []
    while size := int(request.rfile.readline().split(b";")[0], 16):
        parts.append(request.rfile.read(size))
        request.rfile.readline()
    while request.rfile.readline().strip():  # trailers and the final empty line
        pass
    return b"".join(parts)
