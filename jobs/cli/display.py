"""What a person sees while a run works: bars with ETA on a terminal, a line every few seconds elsewhere. All on stderr."""

import threading
import time
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from jobs.stages import Outcome

LINE_EVERY_S = 10.0
"""Without a terminal (CI, a job's log): often enough to see that it lives, seldom enough to read."""

SHOWN = {
    "loss": "loss {:.3f}", "rewards/accuracies": "accuracy {:.2f}", "accuracy": "accuracy {:.2f}",
    "rewards/margins": "margin {:.2f}", "heldout/loss": "held-out {:.3f}", "heldout/accuracy": "held-out accuracy {:.2f}",
    "heldout/rewards/accuracies": "held-out accuracy {:.2f}", "grad_norm": "|grad| {:.2f}", "learning_rate": "lr {:.1e}",
    "reward/score": "reward {:.3f}", "kl/per_answer": "KL {:.2f}", "heldout/score": "held-out {:.3f}",
    "heldout/win_rate": "wins {:.0%}", "tokens_per_s": "{:.0f} tok/s", "rss_gib": "{:.1f} GiB",
}  # fmt: skip
"""Metrics beside the bar, in this order, where a stage has them."""


class Display:
    """Progress of the stage that works now: one bar, or without a terminal one line every LINE_EVERY_S. Closed by `with`."""

    def __init__(self, console: Console, line_every_s: float = LINE_EVERY_S) -> None:
        self._console = console
        self._line_every_s = line_every_s
        self._bars: Progress | None = None
        self._bar = TaskID(0)
        self._stage = self._label = self._metrics = ""
        self._done = self._total = 0
        self._shown: dict[str, str] = {}
        self._began = 0.0
        self._first: tuple[int, float] | None = None
        """What was done when the first was told, and when: ranks that start, and steps of before, say nothing of the speed."""
        self._ended = threading.Event()
        self._lines: threading.Thread | None = None

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def start(self, name: str, note: str) -> None:
        """A stage begins."""
        self._print(f"[bold]{name}[/bold] {note}".rstrip())
        self._stage, self._label, self._metrics = name, "", ""
        self._done = self._total = 0
        self._first = None
        self._began = time.monotonic()
        self._shown = {}
        if self._console.is_terminal:
            columns: list[Any] = [
                SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn(), TextColumn("{task.fields[metrics]}"),
            ]  # fmt: skip
            self._bars = Progress(*columns, console=self._console, transient=True)
            self._bar = self._bars.add_task(name, total=None, metrics="")
            self._bars.start()
        else:
            self._ended.clear()
            self._lines = threading.Thread(target=self._print_lines, name="display", daemon=True)
            self._lines.start()

    def progress(self, label: str, done: int, total: int) -> None:
        """Where the stage is. Another total is another part of the stage, whose time is estimated anew."""
        if total != self._total:
            self._first = None
            if self._bars is not None:
                self._bars.reset(self._bar, total=total)
        if done and self._first is None:
            self._first = (done, time.monotonic())
        self._label, self._done, self._total = label, done, total
        if self._bars is not None:
            self._bars.update(self._bar, description=label, completed=done, metrics=self._metrics)

    def metrics(self, metrics: dict[str, float]) -> None:
        """Of a step, or of an evaluation between steps, which keeps its place beside the next steps."""
        self._shown |= {name: template.format(metrics[name]) for name, template in SHOWN.items() if name in metrics}
        self._metrics = "  ".join(self._shown[name] for name in SHOWN if name in self._shown)

    def say(self, sentence: str) -> None:
        """Something to know while the stage works on."""
        self._print(f"  [yellow]note[/yellow] {escape(sentence)}")

    def end(self, line: str) -> None:
        """The stage is done; what stays on the screen."""
        self._close()
        self._print(line)

    def _print_lines(self) -> None:
        while not self._ended.wait(self._line_every_s):
            self._print(self._line())

    def _line(self) -> str:
        """`  09:41:17 cpt: steps 31/60, about 12 s left  loss 2.814 ...`"""
        line = f"  {time.strftime('%H:%M:%S')} {self._stage}"
        if not self._total:
            return f"{line}: at work for {time.monotonic() - self._began:.0f} s"
        line += f": {self._label} {self._done}/{self._total}"
        if self._first is not None and self._first[0] < self._done < self._total:
            since, at = self._first
            per_unit_s = (time.monotonic() - at) / (self._done - since)
            line += f", about {per_unit_s * (self._total - self._done):.0f} s left"
        return f"{line}  {self._metrics}".rstrip()

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=not self._console.is_terminal)

    def _close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
        if self._lines is not None:
            self._ended.set()
            self._lines.join()
            self._lines = None


SUMMARISED = (
    "heldout/loss", "heldout/accuracy", "heldout/rewards/accuracies", "general/perplexity", "heldout/score", "heldout/gold",
)  # fmt: skip
"""Of the held-out metrics these are worth a line on the screen, before and after; the record has all."""


COUNTED_BY_KIND = {
    "quarantined": "quarantined ", "personal": "personal data replaced ", "stripped": "characters taken out: ",
    "tokenized_by": "texts by tokenizer: ",
}  # fmt: skip


def summary_line(outcome: "Outcome") -> str:
    """The numbers of an outcome in one line, for people."""
    words = []
    for name, value in {**outcome.counts, **outcome.metrics}.items():
        if name in SUMMARISED:
            words.append(f"{name} {outcome.metrics[f'{name}_before']:.4g} -> {value:.4g}")
        elif isinstance(value, int | float) and "/" not in name:
            words.append(f"{name.replace('_', ' ')} {f'{value:,}' if isinstance(value, int) else f'{value:.4g}'}")
        elif name in COUNTED_BY_KIND and isinstance(value, dict) and value:
            words.append(COUNTED_BY_KIND[name] + ", ".join(f"{count:,} {kind}" for kind, count in value.items()))
        elif name == "shares" and isinstance(value, dict):
            words.append("shares " + ", ".join(f"{share:.4f} {source}" for source, share in value.items()))
    return ": " + ", ".join(words) if words else ""
