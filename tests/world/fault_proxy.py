"""Faults between a client and an HTTP server: errors, slowness, cut connections, kills at a chosen request.

Example:
    with fault_proxy(server.url) as proxy:
        proxy.add(Fault("PUT", Action.STATUS, status=500, times=2))      # 500 to the next two PUTs
        proxy.add(Fault("GET", Action.CUT_ANSWER, first=3))              # the third GET breaks off in its middle
        proxy.add(Fault("PUT", Action.KILL_AFTER, path=r"/leases/", pid=writer.pid))
"""

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from tests.world.conditions import wait_for
from tests.world.server_process import serving

CONTROL_PATH = "/_faults"


class Action(StrEnum):
    """What happens to a request that a fault hits."""

    STATUS = "status"
    """Answered with `status`; the server never sees it."""
    SLOW = "slow"
    """Forwarded after `delay_s`."""
    CUT_REQUEST = "cut_request"
    """The connection is closed after half of the request's body; the server never sees it."""
    CUT_ANSWER = "cut_answer"
    """Forwarded; the connection is closed after half of the answer's body, or before the answer where it has none."""
    KILL_BEFORE = "kill_before"
    """Process `pid` is killed (-9); the server never sees the request."""
    KILL_AFTER = "kill_after"
    """Process `pid` is killed (-9) when the server has done what was asked."""
    HOLD_BEFORE = "hold_before"
    """Waits for `FaultProxy.clear`, then is forwarded: meanwhile the test does what it likes to whom it likes."""
    HOLD_AFTER = "hold_after"
    """Forwarded; the answer waits for `FaultProxy.clear`."""


@dataclass(frozen=True)
class Fault:
    """Which requests are hit, and how.

    `method` must match whole, `path` (with its query) somewhere; both are regular expressions. Of the requests that match,
    those from number `first` (1 is the next) are hit, `times` of them. Clients retry: a retried request counts again.
    """

    method: str
    action: Action
    path: str = ""
    first: int = 1
    times: int = 1
    status: int = 500
    delay_s: float = 0.0
    pid: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "action", Action(self.action))
        kills = self.action in (Action.KILL_BEFORE, Action.KILL_AFTER)
        if kills and self.pid <= 1:
            raise ValueError(f"{self.action} needs the pid of the process to kill, not {self.pid}")


@dataclass(frozen=True)
class FaultProxy:
    """A running proxy. `url` stands for the server's address."""

    url: str

    def add(self, fault: Fault) -> None:
        """Puts a fault in force beside the ones there are; the earliest added wins where several match."""
        self._ask("POST", json.dumps(asdict(fault)).encode())

    def clear(self) -> None:
        """Ends all faults and lets held requests go on."""
        self._ask("DELETE")

    def hits(self) -> list[int]:
        """How many requests each fault in force has hit, in the order they were added."""
        return [state["hit"] for state in self._ask("GET")]

    def wait_for_hits(self, count: int, timeout_s: float) -> None:
        """Waits until the faults in force have hit `count` requests together. Raises TimeoutError."""
        wait_for(f"{count} requests hit by faults", lambda: sum(self.hits()) >= count, timeout_s)

    def _ask(self, method: str, body: bytes | None = None) -> list[dict[str, int]]:
        request = urllib.request.Request(self.url + CONTROL_PATH, data=body, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)


@contextmanager
def fault_proxy(target_url: str) -> Iterator[FaultProxy]:
    """Runs a proxy to `target_url` (http://host:port) on a free port of the same address."""
    target = urlsplit(target_url)
    assert target.hostname is not None, f"not a URL: {target_url}"
    with serving("tests.world.fault_proxy_server", target.hostname, target.netloc) as port:
        yield FaultProxy(f"http://{target.hostname}:{port}")
