"""What a run shows while it works: its status, its events, its progress.

    runs/<run id>/status.json            queued -> running -> succeeded | failed | cancelled
    runs/<run id>/resolved.json          the whole config as it was run
    runs/<run id>/events/000017.jsonl    numbered immutable segments, so that S3 needs no append
    runs/<run id>/stop.json              written by whoever wants the run to stop

One writer: the driver's `RunLog`. Ranks send their numbers to it through a Ray actor that only queues (jobs/train/loop.py).
"""

import json
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from cluster.storage import StorageError, Store

FLUSH_S = 2.0
"""How stale `logs -f` may be; each flush is one small object."""
FINISHED = ("succeeded", "failed", "cancelled")
SILENT_AFTER_S = 60.0
"""A running run writes its status at least every `FLUSH_S`; silent for this long it is taken for dead."""


class RunLog:
    """Writes the status and the events of one run, in segments, from a thread of its own."""

    def __init__(
        self,
        store: Store,
        name: str,
        resolved: dict[str, Any],
        planned: dict[str, str],
        job_id: str | None = None,
    ) -> None:
        """`planned`: by stage, `<kind>-<key>` of the artifact it ends in."""
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        self.run_id = f"{name}-{stamp}-{uuid.uuid4().hex[:4]}"
        self._directory = store.below("runs", self.run_id)
        self._lock = threading.Lock()
        self._pending: list[dict[str, Any]] = []
        self._segment = 0
        self._events = 0
        now = time.time()
        self._status: dict[str, Any] = {
            "run_id": self.run_id, "name": name, "status": "running", "created_at": now, "seen_at": now,
            "finished_at": None, "error": None, "job_id": job_id, "stage": None, "artifacts": {},
            "planned": planned,
        }  # fmt: skip
        self._directory.write_json("resolved.json", resolved)
        self._directory.write_json("status.json", self._status)
        self.stop_requested = False
        """Whether somebody asked this run to stop (`request_stop`), from wherever the store can be reached."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._flush_until_stopped, name="run-log", daemon=True)
        self._thread.start()

    def event(self, message: str, level: str = "info", data: dict[str, Any] | None = None) -> None:
        """Adds one event; `data` with numbers makes it a metrics event."""
        with self._lock:
            self._events += 1
            self._pending.append({
                "id": f"{self._events:08d}", "created_at": time.time(), "level": level,
                "type": "metrics" if data else "message", "message": message, "data": data or {},
            })  # fmt: skip

    def set(self, **status: Any) -> None:
        """Changes fields of the status, e.g. `stage`."""
        with self._lock:
            self._status.update(status)

    def artifact(self, stage: str, directory: str) -> None:
        """Notes which artifact a stage of the run ended in."""
        with self._lock:
            self._status["artifacts"] = {**self._status["artifacts"], stage: directory}

    def finish(self, status: str, error: str | None = None) -> None:
        """Writes the last events and the final status."""
        assert status in FINISHED, status
        self._stop.set()
        self._thread.join()
        self.set(status=status, error=error, finished_at=time.time())
        self._flush()

    def _flush_until_stopped(self) -> None:
        while not self._stop.wait(FLUSH_S):
            try:
                self._flush()
            except StorageError:
                continue  # a passing fault of the store: the events stay pending and go with the next flush

    def _flush(self) -> None:
        with self._lock:
            pending = list(self._pending)
            status = {**self._status, "seen_at": time.time()}
        if pending:
            lines = b"".join(json.dumps(event, ensure_ascii=False).encode() + b"\n" for event in pending)
            self._directory.write(f"events/{self._segment:06d}.jsonl", lines)
            self._segment += 1
            with self._lock:
                self._pending = self._pending[len(pending) :]
        self._directory.write_json("status.json", status)
        self.stop_requested = self.stop_requested or self._directory.exists("stop.json")


def request_stop(store: Store, run_id: str) -> None:
    """Asks a run to stop at its next step boundary with a checkpoint. Raises FileNotFoundError for an unknown run."""
    read_status(store, run_id)
    store.write_json(f"runs/{run_id}/stop.json", {"requested_at": time.time()})


def list_runs(store: Store) -> list[dict[str, Any]]:
    """The status of all runs, oldest first; a run that was killed before it wrote its status never began."""
    begun = [run_id for run_id in store.names("runs") if store.exists("runs", run_id, "status.json")]
    statuses = [read_status(store, run_id) for run_id in begun]
    return sorted(statuses, key=lambda status: status["created_at"])


def newest_runs(store: Store) -> list[dict[str, Any]]:
    """The newest run of each name: what people would go on from."""
    return list({status["name"]: status for status in list_runs(store)}.values())


def read_status(store: Store, run_id: str) -> dict[str, Any]:
    """A run's status; one whose driver is gone reads `failed`. Raises FileNotFoundError."""
    status = store.read_json("runs", run_id, "status.json")
    if status["status"] not in FINISHED and time.time() - status["seen_at"] > SILENT_AFTER_S:
        status |= {"status": "failed", "error": "the driver is gone; run the same command again to resume"}
    return status


def read_events(store: Store, run_id: str, after: int = -1) -> Iterator[tuple[int, dict[str, Any]]]:
    """(segment number, event) of the segments after number `after`, in order."""
    for name in store.names("runs", run_id, "events"):
        segment = int(name.removesuffix(".jsonl"))
        if segment > after:
            for line in store.read("runs", run_id, "events", name).splitlines():
                yield segment, json.loads(line)
