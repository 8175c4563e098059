"""The actor between rank 0 and the driver. In a module of its own, so that its process imports no torch."""

from typing import Any, cast

import ray


class HubState:
    """Queues what rank 0 reports until the driver takes it, and hands the wish to stop back to rank 0."""

    def __init__(self) -> None:
        self._metrics: list[dict[str, float]] = []
        self._stop = False
        self._ending: str | None = None
        self._fatal: str | None = None

    def report(self, metrics: dict[str, float]) -> bool:
        self._metrics.append(metrics)
        return self._stop

    def take(self) -> list[dict[str, float]]:
        taken, self._metrics = self._metrics, []
        return taken

    def stop(self) -> None:
        self._stop = True

    def end(self, ending: str) -> None:
        self._ending = ending

    def ending(self) -> str | None:
        return self._ending

    def fail(self, message: str) -> None:
        self._fatal = message

    def fatal(self) -> str | None:
        """What a restart cannot mend: a damaged shard, a loss that is not finite, a lost lease."""
        return self._fatal


Hub: Any = cast(Any, ray.remote)(num_cpus=0, max_concurrency=4)(HubState)
"""The actor; it needs no CPU of its own."""
