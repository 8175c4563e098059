"""`samples`: what a policy answered in a step of PPO, and how it was judged."""

import json
import re
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from configs.errors import UserError
from jobs.cli.inspect import JsonOption
from jobs.cli.places import StoreOption, open_for_looking
from jobs.ppo.sample_files import DIRECTORY, step_of

KEY = re.compile(r"(ppo-)?[0-9a-f]{16}")
SHOWN_CHARACTERS = 600


class NoSamples(UserError):
    """There is no such run or step."""


def samples(
    run: Annotated[str, typer.Argument(help="A run's id, or the name or key of a ppo artifact.")],
    step: Annotated[int | None, typer.Option("--step", min=0, help="Default: the newest one.")] = None,
    heldout: Annotated[bool, typer.Option("--heldout", help="Answers to held-out prompts after that step.")] = False,
    rows: Annotated[int, typer.Option("--rows", min=1, help="How many, the best and the worst first.")] = 6,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a policy answered in a step of PPO, with scores and KL."""
    import io

    import pyarrow.parquet as pq

    directory = _artifact_directory(run, open_for_looking(store))
    kind, what = ("heldout", "held-out samples") if heldout else ("step", "samples")
    found = [step_of(name, kind) for name in directory.names(DIRECTORY)]
    steps = sorted(step for step in found if step is not None)
    if not steps:
        when = "every evaluation, where the stage has `heldout`" if heldout else "every step"
        raise NoSamples(f"{run} has no {what} yet; they are written with {when}")
    if step is not None and step not in steps:
        raise NoSamples(f"{run} has no {what} of step {step}: there are steps {_listed(steps)}")
    chosen = steps[-1] if step is None else step
    table = pq.read_table(io.BytesIO(directory.read(DIRECTORY, f"{kind}-{chosen:06d}.parquet")))
    listed = sorted(table.to_pylist(), key=lambda row: -row["score"])
    if as_json:
        print(json.dumps({"step": chosen, "samples": listed}, ensure_ascii=False))  # noqa: T201 - data goes to stdout
        return
    _show(kind, chosen, listed, rows)


def _show(kind: str, step: int, listed: list[dict[str, Any]], rows: int) -> None:
    best = listed[: (rows + 1) // 2]
    worst = listed[max(len(best), len(listed) - rows // 2) :]
    table = Table(title=f"{kind} {step}: {len(listed)} answers, best and worst", show_lines=True)
    with_gold = any(row["gold"] is not None for row in listed)
    numbers = ("score", *(("gold",) if with_gold else ()), "KL", "tokens")
    for column in (*numbers, "prompt", "answer"):
        table.add_column(column, justify="right" if column in numbers else "left")
    for row in [*best, *worst]:
        kl = "" if row["kl"] is None else f"{row['kl']:.2f}"
        gold = [] if not with_gold else ["" if row["gold"] is None else f"{row['gold']:.3f}"]
        ending = "" if row["finished"] else " [dim](cut off)[/dim]"
        table.add_row(
            f"{row['score']:.3f}", *gold, kl, str(len(row["answer_ids"])), escape(_short(row["question"])),
            escape(_short(row["answer"])) + ending,
        )  # fmt: skip
    Console().print(table)


def _short(text: str) -> str:
    return (
        text
        if len(text) <= SHOWN_CHARACTERS
        else f"{text[: SHOWN_CHARACTERS // 2]} ... {text[-SHOWN_CHARACTERS // 2 :]}"
    )


def _listed(steps: list[int]) -> str:
    if steps == list(range(steps[0], steps[-1] + 1)):
        return f"{steps[0]} to {steps[-1]}"
    return ", ".join(map(str, steps))


def _artifact_directory(run: str, store: Any) -> Any:
    """Of a ppo stage, finished or not; of a run with several the last that has answered. Raises NoSamples, ArtifactNotFound."""
    from cluster.artifacts import artifact_directory, find_named
    from cluster.runs import list_runs

    planned = [status["planned"] for status in list_runs(store) if run in (status["run_id"], status["name"])]
    for stages in reversed(planned):
        keys = [directory.removeprefix("ppo-") for directory in stages.values() if directory.startswith("ppo-")]
        if keys:
            directories = [artifact_directory(store, "ppo", key) for key in reversed(keys)]
            return next((directory for directory in directories if directory.names("samples")), directories[0])
    if planned:
        raise NoSamples(f"{run} has no ppo stage; `acclimate ls` lists runs and artifacts")
    if KEY.fullmatch(run) and (directory := artifact_directory(store, "ppo", run.removeprefix("ppo-"))).names(
        "samples"
    ):
        return directory
    artifact = find_named(store, run, ("ppo",))
    return artifact_directory(store, "ppo", artifact.key)
