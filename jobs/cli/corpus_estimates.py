"""`plan --on 64x32CPU`: what a corpus and its shards would take, and what breaks first; numbers to two digits."""

import json
import math
from typing import TYPE_CHECKING, Any

from rich.console import Console

from jobs.cli.estimates import table_of
from jobs.estimate.rounding import rounded

if TYPE_CHECKING:
    from configs.schema.run import Run
    from jobs.estimate.corpus_limits import Limit
    from jobs.estimate.corpus_work import Nodes
    from jobs.preflight.corpus_on_cluster import PreparationEstimate

NOT_RUN = "calculated from measured rates of one core and assumptions, not run"
UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def show_preparation(run: "Run", nodes: "Nodes", console: Console, as_json: bool) -> None:
    """Raises what jobs.preflight.corpus_on_cluster.estimate_preparation does."""
    from jobs.preflight.corpus_on_cluster import estimate_preparation

    found = estimate_preparation(run, nodes)
    if as_json:
        document = {"run": run.name, "on": str(nodes.cluster), "how": NOT_RUN, "assumed": vars(nodes.assumed),
                    "stages": [row_of(stage) for stage in found]}  # fmt: skip
        print(json.dumps(document, indent=2))  # noqa: T201 - data goes to stdout
        return
    memory = f"{written(nodes.memory_bytes)} a node, {written(nodes.task_bytes)} of it beside Ray's object store"
    console.print(f"{run.name} on {nodes.cluster} ({memory}): {NOT_RUN}", highlight=False)
    for stage in found:
        console.print()
        _show(stage, console)
    said = (f"{name} {value:g}" for name, value in vars(nodes.assumed).items() if value is not None)
    console.print(f"\nassumed ({', '.join(said)})", style="dim")
    console.print("change them by --assume NAME=VALUE; reasons and sources: jobs/estimate/corpus_rates.py", style="dim")
    console.print("stages that train are not in it: give GPUs, e.g. --on 8xH100", style="dim")


def row_of(stage: "PreparationEstimate") -> dict[str, Any]:
    """For machines; bytes and seconds, to two digits."""
    from jobs.estimate.corpus_work import ShardsWork, rank_index_bytes

    volumes, work = stage.volumes, stage.work
    index = {"rank_index_bytes": rounded(rank_index_bytes(work))} if isinstance(work, ShardsWork) else {}
    return {
        "name": stage.name, "bytes": rounded(work.size), "text_bytes": rounded(work.text),
        "partitions": work.partitions, "partitions_asked": stage.asked,
        "volumes": {name: rounded(value) for name, value in vars(volumes).items()},
        "steps": [
            {"step": step.name, "seconds": rounded(step.seconds), "bound": step.by, "tasks": step.tasks,
             "core_s": rounded(step.core_s)}
            for step in stage.steps
        ],
        "seconds": rounded(stage.seconds),
        "breaks": [_limit(limit) for limit in stage.prospect.broken],
        "next": _limit(stage.prospect.next),
        "limits": [_limit(limit) for limit in stage.limits], **index,
    }  # fmt: skip


def _limit(limit: "Limit") -> dict[str, Any]:
    until = None if math.isinf(limit.breaks_from) else rounded(limit.breaks_from)
    return {"what": limit.what, "needs": rounded(limit.needs), "has": rounded(limit.has), "breaks_from": until,
            "mend": limit.mend}  # fmt: skip


def _show(stage: "PreparationEstimate", console: Console) -> None:
    from jobs.estimate.corpus_work import ShardsWork, rank_index_bytes

    work, volumes = stage.work, stage.volumes
    changed = "" if work.partitions == stage.asked else f" (the config says {stage.asked})"
    table = table_of(
        f"{stage.name}: {written(work.size)}, {written(work.text)} of text in {volumes.documents:.2g} documents, "
        f"{work.partitions} partitions{changed}",
        "step", "time", "bound by", "core hours",
    )  # fmt: skip
    for step in stage.steps:
        table.add_row(step.name, duration(step.seconds), step.by, f"{rounded(step.core_s / 3600):g}")
    console.print(table)
    console.print(f"together {duration(stage.seconds)}", style="bold", highlight=False)
    passing = f", and {written(volumes.passing)} until it is done" if volumes.passing else ""
    console.print(
        f"through Ray Data {written(volumes.shuffled)} (packed, of rows of {written(volumes.rows)}), "
        f"{written(volumes.spilled)} of it spilled to disks; in the store {written(volumes.stored)}{passing}",
        highlight=False,
    )
    if isinstance(work, ShardsWork):
        console.print(
            f"each rank that trains will hold {written(rank_index_bytes(work))} of its index", highlight=False
        )
    for number, limit in enumerate(stage.prospect.broken):
        order = "BREAKS FIRST" if number == 0 else "then"
        console.print(f"{order}, from {written(limit.breaks_from)} on: {_needs(limit)}", style="bold", highlight=False)
        console.print(f"  mend: {limit.mend}", highlight=False)
    ahead = stage.prospect.next
    order = "next would break" if stage.prospect.broken else "breaks first"
    mend = f"; {ahead.mend}" if ahead.mend else ""
    console.print(f"{order}, from {written(ahead.breaks_from)} on: {_needs(ahead)}{mend}", highlight=False)


def _needs(limit: "Limit") -> str:
    return f"{limit.what} ({written(limit.needs)} of {written(limit.has)})"


def written(size: float) -> str:
    """Bytes, or a count. Example: 1.24e13 -> "12 TB"."""
    if math.isinf(size):
        return "any size"
    power = min(len(UNITS) - 1, int(math.log10(rounded(size)) // 3)) if size >= 1 else 0
    return f"{rounded(size / 1000**power):g} {UNITS[power]}"


def duration(seconds: float) -> str:
    """Example: 5400 -> "1.5 h"."""
    if seconds < 120:
        return f"{rounded(seconds):g} s"
    return f"{rounded(seconds / 60):g} min" if seconds < 7200 else f"{rounded(seconds / 3600):g} h"
