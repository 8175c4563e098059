"""One writer at a time for a directory of a store, on disk and on S3 alike.

    lease/000001.json   first holder      {owner, attempt: 1, expires_at, released}
    lease/000002.json   the next one      the highest number holds; its owner alone rewrites it

Taking the lease = creating the next number, which the store grants to exactly one process. The number is also the fencing
token: whoever finds a higher one has lost and stops (`Lease.check`). A holder renews every RENEW_S; a dead one is seen by its
expiry, or at once where the process that held it is gone from this host. Clocks of hosts may differ by some seconds only.
"""

import os
import socket
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cluster.storage import Patience, StorageError, Store
from configs.errors import RunFailed

LEASE_S = 60.0
"""A holder that has not renewed for this long is taken for dead; long against a stalled S3 request."""
RENEW_S = 15.0
"""Three renewals may fail before a live holder loses its lease."""


class LeaseHeld(RunFailed):
    """Somebody else is writing here."""


class LeaseLost(RunFailed):
    """This process was taken for dead and another one has taken over: it must not write any more."""


@dataclass(frozen=True)
class LeaseRecord:
    """What stands in a lease file.

    Example:
        LeaseRecord(attempt=2, owner="node-3 pid 4711", host="node-3/1f0c9a2b/pid:[4026531836]", pid=4711, process_started=81234,
                    renewed_at=1764.0, expires_at=1824.0)
    """

    attempt: int
    owner: str
    host: str
    pid: int
    process_started: int
    """Clock ticks since boot: a reused process id does not look alive."""
    renewed_at: float
    expires_at: float
    released: bool = False


def process_started(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot (proc(5), field 22), None where there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def host_id() -> str:
    """Host name, boot id and process namespace: process ids of two hosts, boots or containers are never compared."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        boot = namespace = "unknown"
    return f"{socket.gethostname()}/{boot}/{namespace}"


def read_lease(directory: Store) -> LeaseRecord | None:
    """The newest lease of a directory, None where nobody ever wrote."""
    names = directory.names("lease")
    return LeaseRecord(**directory.read_json("lease", names[-1])) if names else None


def is_live(lease: LeaseRecord, now: float) -> bool:
    """Whether the holder may still be writing."""
    if lease.released or lease.expires_at <= now:
        return False
    same_host = lease.host == host_id()
    return not (same_host and process_started(lease.pid) != lease.process_started)


class Lease:
    """A held lease, renewed by a thread until `release`. Use `acquire`."""

    def __init__(self, directory: Store, record: LeaseRecord, ttl_s: float, renew_s: float) -> None:
        self.directory = directory
        self.attempt = record.attempt
        self._record = record
        # A renewal that is tried for minutes, as other writes are, outlives the lease: the next one is due before.
        self._impatient = Store(directory.root, Patience.PROBE)
        self._ttl_s = ttl_s
        self._renew_s = renew_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew_until_stopped, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises LeaseLost where another attempt has taken over. Reads the store: call it before a commit, not in a loop."""
        check_attempt(self.directory, self.attempt)

    def release(self) -> None:
        """Lets the next writer in at once."""
        self._stop.set()
        self._thread.join()
        self._write(released=True)

    def _renew_until_stopped(self) -> None:
        while not self._stop.wait(self._renew_s):
            try:
                self._write(released=False)
            except StorageError:
                continue  # a passing fault of the store; the next renewal is due long before the lease expires

    def _write(self, released: bool) -> None:
        now = time.time()
        self._record = replace(self._record, renewed_at=now, expires_at=now + self._ttl_s, released=released)
        self._impatient.write_json(_lease_path(self.attempt), asdict(self._record))


def check_attempt(directory: Store, attempt: int) -> None:
    """Raises LeaseLost unless `attempt` is the newest of the directory."""
    newest = max((int(name.removesuffix(".json")) for name in directory.names("lease")), default=0)
    if newest != attempt:
        raise LeaseLost(f"{directory.root}: attempt {attempt} was taken for dead, attempt {newest} writes now")


def require_free(directory: Store) -> LeaseRecord | None:
    """The newest lease, which nobody holds any more; None where there was none. Raises LeaseHeld naming the holder."""
    last, now = read_lease(directory), time.time()
    if last is not None and is_live(last, now):
        raise LeaseHeld(
            f"{directory.root} is being written by {last.owner} (attempt {last.attempt}, last sign of life "
            f"{now - last.renewed_at:.0f} s ago, lease ends in {last.expires_at - now:.0f} s). Wait for it, end it "
            "with `acclimate stop`, or run again when the lease has ended."
        )
    return last


def acquire(directory: Store, ttl_s: float = LEASE_S, renew_s: float = RENEW_S) -> Lease:
    """Becomes the one writer of `directory`. Raises LeaseHeld naming the holder."""
    while True:
        last = require_free(directory)
        record = _own_record(1 if last is None else last.attempt + 1, time.time(), ttl_s)
        if directory.create_json(_lease_path(record.attempt), asdict(record)):
            return Lease(directory, record, ttl_s, renew_s)


def _own_record(attempt: int, now: float, ttl_s: float) -> LeaseRecord:
    pid = os.getpid()
    started = process_started(pid)
    assert started is not None, pid
    owner = f"{socket.gethostname()} pid {pid}"
    return LeaseRecord(attempt, owner, host_id(), pid, started, now, now + ttl_s)


def _lease_path(attempt: int) -> str:
    return f"lease/{attempt:06d}.json"
