"""Process: an HTTP proxy which disturbs chosen requests. usage: python -m tests.world.fault_proxy_server ADDRESS TARGET.

client ──request──► proxy ──► target (host:port)
                      │ the first fault whose method, path and count match decides
test ──/_faults──► POST a fault, GET all with their counts, DELETE all (which lets held requests go on)
"""

import http.client
import json
import os
import re
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.world.fault_proxy import CONTROL_PATH, Action, Fault

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect"}
"""Headers that concern one connection only (RFC 9110, 7.6.1); Expect is answered here."""

TARGET_TIMEOUT_S = 60


@dataclass
class ActiveFault:
    """A fault and how often its method and path matched."""

    fault: Fault
    seen: int = 0
    hit: int = 0
    released: threading.Event = field(default_factory=threading.Event)


class Faults:
    """The faults in force; shared by the threads of the proxy."""

    def __init__(self) -> None:
        self._active: list[ActiveFault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._active.append(ActiveFault(fault))

    def clear(self) -> None:
        with self._lock:
            for active in self._active:
                active.released.set()
            self._active.clear()

    def state(self) -> list[dict[str, object]]:
        with self._lock:
            return [{"seen": active.seen, "hit": active.hit} for active in self._active]

    def take(self, method: str, path: str) -> ActiveFault | None:
        """Counts the request on every fault it matches and returns the first that is due for it."""
        due: ActiveFault | None = None
        with self._lock:
            for active in self._active:
                fault = active.fault
                if not (re.fullmatch(fault.method, method) and re.search(fault.path, path)):
                    continue
                active.seen += 1
                if due is None and fault.first <= active.seen < fault.first + fault.times:
                    active.hit += 1
                    due = active
        return due


@dataclass(frozen=True)
class Answer:
    """A whole answer of the target."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes


class Proxy(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: str, target: str) -> None:
        super().__init__((address, 0), Handler)
        self.target = target
        self.faults = Faults()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionResetError, BrokenPipeError):
            # The client is gone, often because a fault killed it.
            self.close_connection = True

    def do_any(self) -> None:
        if self.path == CONTROL_PATH:
            self._control()
            return
        active = self.server.faults.take(self.command, self.path)
        length = int(self.headers.get("Content-Length") or 0)
        if active is not None and active.fault.action is Action.CUT_REQUEST:
            self.rfile.read(length // 2)
            self.close_connection = True
            return
        body = self.rfile.read(length)
        if active is None:
            self._send(self._forward(body))
        else:
            self._disturb(active, body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_any

    def _disturb(self, active: ActiveFault, body: bytes) -> None:
        fault = active.fault
        match fault.action:
            case Action.STATUS:
                self._send(Answer(fault.status, "Fault", [("Content-Length", "0")], b""))
            case Action.SLOW:
                time.sleep(fault.delay_s)
                self._send(self._forward(body))
            case Action.CUT_ANSWER:
                self._send_half(self._forward(body))
            case Action.KILL_BEFORE:
                os.kill(fault.pid, signal.SIGKILL)
                self.close_connection = True
            case Action.KILL_AFTER:
                self._forward(body)
                os.kill(fault.pid, signal.SIGKILL)
                self.close_connection = True
            case Action.HOLD_BEFORE:
                active.released.wait()
                self._send(self._forward(body))
            case Action.HOLD_AFTER:
                answer = self._forward(body)
                active.released.wait()
                self._send(answer)
            case Action.CUT_REQUEST:
                raise AssertionError("cut before the body was read")

    def _forward(self, body: bytes) -> Answer:
        connection = http.client.HTTPConnection(self.server.target, timeout=TARGET_TIMEOUT_S)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
        # Host stays the client's: it is part of what the client signed.
        connection.request(self.command, self.path, body=body, headers=headers)
        answer = connection.getresponse()
        data = answer.read()
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP]
        if self.command != "HEAD" and answer.status not in (204, 304):
            kept = [(name, value) for name, value in kept if name.lower() != "content-length"]
            kept.append(("Content-Length", str(len(data))))
        connection.close()
        return Answer(answer.status, answer.reason, kept, data)

    def _send(self, answer: Answer) -> None:
        self._send_head(answer)
        self.wfile.write(answer.body)

    def _send_half(self, answer: Answer) -> None:
        """Half of the body under the whole one's length; where there is no body, no answer at all."""
        if answer.body:
            self._send_head(answer)
            self.wfile.write(answer.body[: len(answer.body) // 2])
        self.close_connection = True

    def _send_head(self, answer: Answer) -> None:
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.end_headers()

    def _control(self) -> None:
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.command == "POST":
            self.server.faults.add(Fault(**json.loads(text)))
        if self.command == "DELETE":
            self.server.faults.clear()
        body = json.dumps(self.server.faults.state()).encode()
        self._send(Answer(200, "OK", [("Content-Length", str(len(body)))], body))

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: tests ask for the counts."""


def main(address: str, target: str) -> None:
    with Proxy(address, target) as server:
        print(json.dumps({"port": server.server_port}), flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
