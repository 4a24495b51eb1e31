"""Moto's S3 on a free port of this machine, which fails when it is told to: `python s3_server.py` prints the port.

POST /fail?times=5&status=503&code=SlowDown     the next five requests are answered so
It ends when its standard input does.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

_ERROR = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>told to fail</Message></Error>"


class Failing:
    """A WSGI application that passes requests on to another one, or fails them."""

    def __init__(self, application: Any) -> None:
        self._application, self._left, self._answer = application, 0, ("", "")
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/fail":
            asked = parse_qs(environ["QUERY_STRING"])
            with self._lock:
                self._left, self._answer = int(asked["times"][0]), (asked["status"][0], asked["code"][0])
            start("200 OK", [("Content-Length", "0")])
            return []
        with self._lock:
            fails, self._left = self._left > 0, self._left - 1
        if not fails:
            return self._application(environ, start)  # type: ignore[no-any-return]
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        status, code = self._answer
        content = _ERROR.format(code=code).encode()
        start(f"{status} {code}", [("Content-Type", "application/xml"), ("Content-Length", str(len(content)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [content]


if __name__ == "__main__":
    server = make_server("127.0.0.1", 0, Failing(DomainDispatcherApplication(create_backend_app)), threaded=True)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    print(server.server_port, flush=True)
    server.serve_forever()
