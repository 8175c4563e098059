"""Which rank a training run waits for.

    each rank: thread ──beat: step, phase──► Hub ──ranks()──► driver: no step has ended for long ──slow_ranks──► a sentence

A gang of ranks stands still as soon as one of them does, and all look alike from outside: every other rank waits in a
collective. What tells them apart is who beats no more (frozen or lost) and who has not come as far as the others.
"""

import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

BEAT_S = 5.0
"""Seldom enough to cost nothing, often enough that a frozen rank is known within half a minute."""
SILENT_S = 4 * BEAT_S
"""A rank that has not beaten for so long is frozen: the thread beats also while the rank computes or waits."""
PHASES = ("loading", "reading", "computing", "updating", "measuring", "saving", "exporting")
"""In the order in which a step passes them."""


@dataclass(frozen=True)
class Beat:
    """Where a rank is."""

    rank: int
    host: str
    pid: int
    step: int
    phase: str


@dataclass(frozen=True)
class Heard:
    """A rank's last beat and how long ago it was heard, in seconds."""

    beat: Beat
    ago_s: float


@dataclass
class Heart:
    """Beats from a thread of its own until it is stopped; `at` says where the rank is."""

    rank: int
    send: Callable[[Beat], None]
    """Must not block."""
    _step: int = 0
    _phase: str = PHASES[0]
    _stopped: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        threading.Thread(target=self._beat_until_stopped, name="heart", daemon=True).start()

    def at(self, step: int, phase: str) -> None:
        """The rank begins a phase of a step (steps count from 1)."""
        assert phase in PHASES, phase
        self._step, self._phase = step, phase

    def stop(self) -> None:
        self._stopped.set()

    def _beat_until_stopped(self) -> None:
        host, pid = socket.gethostname(), os.getpid()
        while True:
            self.send(Beat(self.rank, host, pid, self._step, self._phase))
            if self._stopped.wait(BEAT_S):
                return


def slow_ranks(heard: list[Heard]) -> str:
    """What is known about a step that does not end: the ranks the others wait for, and what to look at."""
    frozen = [rank for rank in heard if rank.ago_s > SILENT_S]
    if frozen:
        named = ", ".join(f"{_name(rank.beat)} (silent for {rank.ago_s:.0f} s)" for rank in frozen)
        return f"waiting for {named}: its process is frozen, or its host is overloaded or cut off"
    behind = min((_progress(rank.beat) for rank in heard), default=(0, 0))
    slow = [rank.beat for rank in heard if _progress(rank.beat) == behind]
    if not slow:
        return "no rank has been heard of: the worker group is starting, or the cluster has no room for it (see `ray status`)"
    place = f"{slow[0].phase} in step {slow[0].step}"
    if len(slow) == len(heard):
        return f"all {len(heard)} ranks are {place}; `py-spy dump --pid {slow[0].pid}` on {slow[0].host} shows where"
    named = ", ".join(_name(beat) for beat in slow)
    return f"waiting for {named}, still {place}; `py-spy dump --pid {slow[0].pid}` there shows where"


def _progress(beat: Beat) -> tuple[int, int]:
    return beat.step, PHASES.index(beat.phase)


def _name(beat: Beat) -> str:
    return f"rank {beat.rank} on {beat.host} (pid {beat.pid})"
