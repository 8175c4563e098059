"""What is seen while a run works: one bar a stage on a terminal; elsewhere lines with the time, also in silence."""

import io
import re
import time

import pytest
from rich.console import Console

from jobs.cli.display import Display
from tests.world.conditions import wait_for

STEP = {"step": 3.0, "loss": 2.5, "grad_norm": 1.0, "learning_rate": 1e-3, "tokens_per_s": 400.0, "rss_gib": 1.5}
LINE = re.compile(r"^  \d\d:\d\d:\d\d cpt: steps 3/10, about \d+ s left  loss 2\.500 .* 400 tok/s")


def test_without_a_terminal_there_are_lines_with_the_time_and_no_bar() -> None:
    written = io.StringIO()
    with Display(Console(file=written, width=40), line_every_s=0.05) as display:
        display.start("cpt", "(cpt abc)")
        wait_for("a sign of life before anything is counted", lambda: "at work for" in written.getvalue(), 10)
        display.metrics(STEP)
        display.progress("steps", 2, 10)
        display.progress("steps", 3, 10)
        wait_for("two lines", lambda: written.getvalue().count("3/10") >= 2, 10)
        display.end("  cpt done in 1 s: " + "tokens 1,000, " * 5)
    lines = written.getvalue().splitlines()
    assert lines[0] == "cpt (cpt abc)" and "\x1b" not in written.getvalue()
    assert any(LINE.match(line) for line in lines), lines
    assert lines[-1].count("tokens") == 5, "a line of a log is not wrapped"
    seen = len(lines)
    with pytest.raises(TimeoutError):
        wait_for("a line after the end", lambda: len(written.getvalue().splitlines()) > seen, 0.3)


def test_on_a_terminal_a_stage_has_one_bar_whatever_its_parts_are_called() -> None:
    written = io.StringIO()
    with Display(Console(file=written, force_terminal=True, width=120)) as display:
        display.start("evaluation", "(evaluate abc)")
        for done, label in enumerate(("scoring", "base: texts scored", "sft: texts scored", "sft: answered")):
            display.progress(label, done, 3)
        bars = display._bars
        assert bars is not None and len(bars.tasks) == 1
        assert (bars.tasks[0].completed, bars.tasks[0].total) == (3, 3)
        display.progress("copying", 1, 50)
        assert len(bars.tasks) == 1 and (bars.tasks[0].completed, bars.tasks[0].total) == (1, 50)
        display.end("  evaluation done in 1 s")
    assert "ETA" in written.getvalue()


def test_the_time_that_is_left_counts_neither_the_start_nor_what_was_done_before() -> None:
    """Resumed at step 901 of 1000 after a second of starting: the 98 steps that are left take what the last one took."""
    with Display(Console(file=io.StringIO())) as display:
        display.start("cpt", "resuming")
        display.progress("steps", 0, 1000)
        display._began -= 1000.0
        display.progress("steps", 901, 1000)
        assert "left" not in display._line()
        time.sleep(0.1)
        display.progress("steps", 902, 1000)
        left = re.search(r"about (\d+) s left", display._line())
        assert left is not None and 9 <= int(left[1]) < 60


def test_a_measurement_after_a_step_leaves_the_steps_numbers() -> None:
    written = io.StringIO()
    with Display(Console(file=written), line_every_s=0.05) as display:
        display.start("cpt", "")
        display.metrics(STEP)
        display.metrics({"step": 3.0, "loss": 2.5, "heldout/loss": 2.0})
        display.progress("steps", 3, 10)
        wait_for("a line", lambda: "3/10" in written.getvalue(), 10)
    assert "loss 2.500" in written.getvalue()
