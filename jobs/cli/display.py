"""What a person sees while a run works: bars with ETA on a terminal, a line every few seconds elsewhere. All on stderr."""

import time
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LINE_EVERY_S = 10.0
"""Without a terminal (CI, a job's log): often enough to see that it lives, seldom enough to read."""

SHOWN = {
    "loss": "loss {:.3f}", "rewards/accuracies": "accuracy {:.2f}", "accuracy": "accuracy {:.2f}",
    "rewards/margins": "margin {:.2f}", "heldout/loss": "held-out {:.3f}", "heldout/accuracy": "held-out accuracy {:.2f}",
    "heldout/rewards/accuracies": "held-out accuracy {:.2f}", "grad_norm": "|grad| {:.2f}", "learning_rate": "lr {:.1e}",
    "tokens_per_s": "{:.0f} tok/s", "rss_gib": "{:.1f} GiB",
}  # fmt: skip
"""Metrics beside the bar, in this order, where a stage has them."""


class Display:
    """Progress of the stage that works now."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last_line = 0.0
        self._metrics = ""
        self._shown: dict[str, str] = {}
        self._began = 0.0

    def start(self, title: str, note: str) -> None:
        """A stage begins."""
        self._console.print(f"[bold]{title}[/bold] {note}", highlight=False)
        self._metrics, self._shown, self._tasks = "", {}, {}
        self._began = self._last_line = time.monotonic()
        if self._console.is_terminal:
            columns: list[Any] = [
                SpinnerColumn(), TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(),
                TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn(), TextColumn("{task.fields[metrics]}"),
            ]  # fmt: skip
            self._bars = Progress(*columns, console=self._console, transient=True)
            self._bars.start()

    def progress(self, label: str, done: int, total: int) -> None:
        if self._bars is not None:
            if label not in self._tasks:
                self._tasks[label] = self._bars.add_task(label, total=total, metrics="")
            self._bars.update(self._tasks[label], completed=done, total=total, metrics=self._metrics)
        elif time.monotonic() - self._last_line >= LINE_EVERY_S or (done == total and total):
            self._last_line = time.monotonic()
            passed = time.monotonic() - self._began
            eta = f", about {passed / done * (total - done):.0f} s left" if 0 < done < total else ""
            self._console.print(f"  {label} {done}/{total}{eta} {self._metrics}".rstrip(), highlight=False)

    def metrics(self, metrics: dict[str, float]) -> None:
        """Of a step, or of an evaluation between steps, which keeps its place beside the next steps."""
        self._shown |= {name: template.format(metrics[name]) for name, template in SHOWN.items() if name in metrics}
        self._metrics = "  ".join(self._shown[name] for name in SHOWN if name in self._shown)

    def say(self, sentence: str) -> None:
        """Something to know while the stage works on."""
        self._console.print(f"  [yellow]note[/yellow] {escape(sentence)}", highlight=False)

    def end(self, line: str) -> None:
        """The stage is done; what stays on the screen."""
        self.close()
        self._console.print(line, highlight=False)

    def close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
