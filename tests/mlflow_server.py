"""MLflow's server on a port of this machine, which dies when it is told to: `python mlflow_server.py URI FOLDER`.

It prints the port. Each line of its standard input starts the server, as soon as the one before is dead: with a number
N it is killed by its Nth request that changes anything, when that is done and not answered yet; with 0 it lives. Then
it prints "ready". Everything ends with the standard input.
"""

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable
from typing import Any


class Dying:
    """A WSGI application that passes requests on to another one, until it is killed by one of them."""

    def __init__(self, application: Any, after: int) -> None:
        self._application, self._left = application, after

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        answer: Iterable[bytes] = self._application(environ, start)
        if environ["REQUEST_METHOD"] != "GET" and not environ["PATH_INFO"].endswith("/search"):
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return answer


def bound(port: int) -> socket.socket:
    """A socket on a port that several processes may have; where none of them listens, connections are refused."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("127.0.0.1", port))
    return made


def main(uri: str, folder: str) -> None:
    """Serve until the end of the input."""
    os.environ |= {
        "_MLFLOW_SERVER_FILE_STORE": uri,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": folder,
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    from mlflow.server import app
    from werkzeug.serving import make_server

    reserved, child = bound(0), 0
    port = reserved.getsockname()[1]
    print(port, flush=True)
    for line in sys.stdin:
        if child:
            os.waitpid(child, 0)
        if not (child := os.fork()):
            listening = bound(port)
            listening.listen(64)
            server = make_server("127.0.0.1", port, Dying(app, int(line)), fd=listening.fileno())
            print("ready", flush=True)
            server.serve_forever()
    if child:
        os.kill(child, signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
