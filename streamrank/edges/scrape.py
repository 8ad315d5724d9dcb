"""The port that Prometheus and an orchestrator ask: /metrics, /healthz and /readyz."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from streamrank.errors import StreamRankError

log = logging.getLogger(__name__)
TEXT = "text/plain; version=0.0.4; charset=utf-8"


class PortTaken(StreamRankError):
    """The address of the metrics cannot be listened on."""


class _Handler(BaseHTTPRequestHandler):
    """Answers the three questions; the class is made anew for each server."""

    timeout = 5  # a client that says nothing holds no thread for long
    exposition: Callable[[], bytes]
    ready: Callable[[], bool]

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer(200, type(self).exposition())
        elif path == "/healthz":
            self._answer(200, b"alive\n")
        elif path == "/readyz":
            ready = type(self).ready()
            self._answer(200 if ready else 503, b"ready\n" if ready else b"not ready\n")
        else:
            self._answer(404, b"there are /metrics, /healthz and /readyz\n")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", TEXT)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        log.debug(format, *args)


class Scrape:
    """A small HTTP server in a thread of its own.

    Args:
        address: Where to listen.
        port: Which port; 0 takes a free one.
        exposition: Returns the metrics as text.
        ready: Says whether the flow takes part.

    Raises:
        PortTaken: Another process listens there, or the address is not ours.

    Examples:
        >>> import urllib.request
        >>> with Scrape("127.0.0.1", 0, lambda: b"up 1", lambda: True) as server:
        ...     with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as answer:
        ...         answer.read()
        b'up 1'
    """

    def __init__(
        self, address: str, port: int, exposition: Callable[[], bytes], ready: Callable[[], bool]
    ) -> None:
        answers = {"exposition": staticmethod(exposition), "ready": staticmethod(ready)}
        handler = type("Handler", (_Handler,), answers)
        try:
            self._server = ThreadingHTTPServer((address, port), handler)
        except OSError as error:
            raise PortTaken(
                f"metrics.port must be free on {address}, got {port}: {error.strerror or error}"
            ) from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Answer nothing more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
