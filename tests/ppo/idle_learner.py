"""An actor that answers as a learner does and learns nothing; it imports nothing heavy and is up in a second."""

import os
import time


class Learner:
    """Which needs `upload_s` to commit what it saved."""

    def __init__(self, upload_s: float) -> None:
        self._upload_s, self._committed_at = upload_s, 0.0
        self._saved_at: list[float] = []

    def settle(self) -> None:
        time.sleep(max(0.0, self._committed_at - time.monotonic()))

    def save(self, step: int, history: list[dict[str, float]]) -> None:
        self.settle()
        self._saved_at.append(time.monotonic())
        self._committed_at = self._saved_at[-1] + self._upload_s

    def saved_at(self) -> list[float]:
        return self._saved_at

    def busy_s(self, pause_s: float = 0.0) -> float:
        time.sleep(pause_s)
        return 0.0

    def process(self) -> int:
        return os.getpid()
