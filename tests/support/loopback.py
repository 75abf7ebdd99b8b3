"""HTTP servers on loopback with faults, the base of `s3` and `hub`."""

import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FaultyServer:
    """Records requests, and cuts off downloads on demand."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        self._cuts = (0, 0)
        self._servers: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def cut_after(self, n_bytes: int, times: int) -> None:
        """Close the connection after `n_bytes` of the next `times` longer downloads."""
        with self._lock:
            self._cuts = (n_bytes, times)

    def count(self, method: str, contains: str = "") -> int:
        """Return how many requests had this method and `contains` in their path."""
        return sum(name == method and contains in path for name, path in self.requests)

    def close(self) -> None:
        for server, thread in self._servers:
            server.shutdown()
            server.server_close()
            thread.join()

    def _serve(self, answer: Callable[[BaseHTTPRequestHandler], None]) -> int:
        """Start a server on a free port; return the port."""

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def handle_any(self) -> None:
                answer(self)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        self._servers.append((server, thread))
        return server.server_port

    def _limit(self, length: int) -> int | None:
        """Return after how many bytes a download is cut off; None if it is not."""
        with self._lock:
            n_bytes, times = self._cuts
            if times == 0 or length <= n_bytes:
                return None
            self._cuts = (n_bytes, times - 1)
            return n_bytes


def send(
    request: BaseHTTPRequestHandler,
    status: int,
    headers: Iterable[tuple[str, str]],
    body: bytes,
    *,
    limit: int | None = None,
) -> None:
    """Answer; with a limit, only with the first bytes of the body, then close the connection."""
    request.send_response_only(status)
    for name, value in headers:
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body[:limit])
    request.wfile.flush()
    if limit is not None:
        request.close_connection = True
