"""The actor between the ranks and the driver. In a module of its own, so that its process imports no torch."""

import time
from typing import Any, cast

import ray

from jobs.train.liveness import Beat, Heard


class HubState:
    """Queues what rank 0 reports until the driver takes it, and hands the wish to stop back to rank 0."""

    def __init__(self) -> None:
        self._metrics: list[dict[str, float]] = []
        self._sentences: list[str] = []
        self._stop = False
        self._ending: str | None = None
        self._fatal: tuple[str, int] | None = None
        self._beats: dict[int, tuple[Beat, float]] = {}
        self._groups = 0

    def report(self, metrics: dict[str, float]) -> bool:
        self._metrics.append(metrics)
        return self._stop

    def take(self) -> list[dict[str, float]]:
        taken, self._metrics = self._metrics, []
        return taken

    def say(self, sentence: str) -> None:
        self._sentences.append(sentence)

    def take_sentences(self) -> list[str]:
        taken, self._sentences = self._sentences, []
        return taken

    def beat(self, beat: Beat) -> None:
        self._beats[beat.rank] = (beat, time.monotonic())

    def heard(self) -> list[Heard]:
        """The last beat of every rank of the group that works now."""
        now = time.monotonic()
        return [Heard(beat, now - when) for _, (beat, when) in sorted(self._beats.items())]

    def begin(self, ranks: int) -> None:
        """A group of ranks starts; all but the first are told of, as the last one was lost or resized."""
        self._beats.clear()
        self._groups += 1
        if self._groups > 1:
            self.say(
                f"the ranks were lost or their number changed: group {self._groups}, of {ranks}, "
                "goes on from the newest checkpoint"
            )

    def stop(self) -> None:
        self._stop = True

    def end(self, ending: str) -> None:
        self._ending = ending

    def ending(self) -> str | None:
        return self._ending

    def fail(self, message: str, exit_code: int) -> None:
        self._fatal = message, exit_code

    def fatal(self) -> tuple[str, int] | None:
        """What a restart cannot mend (a damaged shard, a loss that is not finite, a lost lease), and its exit code."""
        return self._fatal


Hub: Any = cast(Any, ray.remote)(num_cpus=0, max_concurrency=4)(HubState)
"""The actor; it needs no CPU of its own."""
