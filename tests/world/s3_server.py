"""Process: moto's S3 over HTTP. usage: python -m tests.world.s3_server ADDRESS PORT (0: any free port)."""

import io
import json
import logging
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server


class OneAtATime:
    """Lets one request at a time into moto, once its body has arrived whole.

    moto asks whether a key exists and writes it in two steps; S3 decides a conditional PUT in one.
    """

    def __init__(self, application: Callable[[WSGIEnvironment, StartResponse], Any]) -> None:
        self.application = application
        self.lock = threading.Lock()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length)
        if len(body) < length:
            start_response("400 Bad Request", [])
            return [b"the connection was cut in the middle of the body"]
        environ["wsgi.input"] = io.BytesIO(body)
        with self.lock:
            return list(self.application(environ, start_response))


def main(address: str, port: str) -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server(address, int(port), OneAtATime(DomainDispatcherApplication(create_backend_app)), threaded=True)
    print(json.dumps({"port": server.server_port}), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
