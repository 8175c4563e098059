"""`plan`: what a run would do, here or on GPUs that need not be there."""

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from jobs.cli.corpus_estimates import show_preparation
from jobs.cli.estimates import memory_table, show_on
from jobs.cli.places import StoreOption, load

if TYPE_CHECKING:
    from cluster.storage import Store
    from configs.schema.run import Run
    from jobs.pipeline import PlannedStage
    from jobs.preflight.memory import Share

ConfigArgument = Annotated[str, typer.Argument(metavar="CONFIG", help="A run file, e.g. configs/quickstart.yaml.")]
OverridesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Dotted overrides, e.g. stages.cpt.steps=10.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def plan(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            metavar="8xH100",
            help="Calculate memory and time on GPUs that need not be there (of a model config.json is enough), or, as 64x32CPU, "
            "of corpora and shards on 64 nodes of 32 cores, with what breaks first.",
        ),
    ] = None,
    assume: Annotated[
        list[str] | None,
        typer.Option(
            "--assume",
            metavar="NAME=VALUE",
            help="With --on: e.g. mean_answer_share=1, corpus_bytes=10e12; --on prints them.",
        ),
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show stages, data, memory and what will be reused, and refuse what `run` would refuse; starts nothing."""
    from cluster.storage import Patience
    from jobs.pipeline import State, plan_run
    from jobs.preflight.stages import foresee

    loaded, opened = load(config, overrides, store)
    if on is not None:
        _show_on(loaded.run, opened, on, assume or [], as_json)
        return
    if assume:
        raise typer.BadParameter("--assume changes what --on calculates; say --on too, e.g. --on 8xH100")
    # Somebody waits and nothing is lost by an error: an unreachable store is said soon.
    opened = replace(opened, patience=Patience.PROBE)
    planned = plan_run(loaded.run, opened)
    # What `run` would refuse, a plan does not show as if it could be done.
    foresee(loaded.run, [stage for stage in planned if stage.state is not State.DONE], opened)
    rows = planned_rows(planned)
    shares = _shares(loaded.run, planned, opened)
    if as_json:
        document = {
            "run": loaded.run.name,
            "store": opened.root,
            "stages": [{**row, "memory": [share.row() for share in shares.get(row["name"], [])]} for row in rows],
            "config": loaded.run.model_dump(mode="json"),
        }
        print(json.dumps(document, indent=2))  # noqa: T201 - data goes to stdout
        return
    Console().print(plan_table(rows, f"{loaded.run.name} in {opened.root}"))
    if shares:
        Console().print(memory_table(shares))


def _show_on(run: "Run", store: "Store", on: str, assume: list[str], as_json: bool) -> None:
    """On GPUs the stages that train, on nodes of cores those that prepare texts: who has both pays for one of them to wait."""
    from jobs.estimate.corpus_rates import CorpusAssumptions
    from jobs.estimate.corpus_work import Nodes
    from jobs.estimate.hardware import CpuCluster, parse_assumptions, parse_cluster
    from jobs.estimate.time import Machine

    cluster = parse_cluster(on)
    if isinstance(cluster, CpuCluster):
        show_preparation(run, Nodes(cluster, parse_assumptions(assume, CorpusAssumptions)), Console(), as_json)
    else:
        show_on(run, store, Machine(cluster, parse_assumptions(assume)), Console(), as_json)


def _shares(run: "Run", planned: "list[PlannedStage]", store: "Store") -> "dict[str, list[Share]]":
    """By stage, of those that will be computed and have models whose files are here."""
    from jobs.pipeline import State
    from jobs.preflight.memory import shares_of

    waiting = {stage.name: stage for stage in planned if stage.state is not State.DONE}
    found = {name: shares_of(run, stage, waiting, store) for name, stage in waiting.items()}
    return {name: shares for name, shares in found.items() if shares}


def planned_rows(planned: "list[PlannedStage]") -> list[dict[str, Any]]:
    from jobs.preflight.stages import describe

    rows = [
        {
            "name": stage.name, "kind": stage.stage.stage, "key": stage.key, "state": stage.state.value,
            "parents": stage.parents, **describe(stage),
        }
        for stage in planned
    ]  # fmt: skip
    for row, refused in zip(rows, _refused(planned), strict=True):
        if refused:
            row["not_allowed"] = refused
            row["what"] += "; not used: " + ", ".join(f"{source} ({reason})" for source, reason in refused.items())
    return rows


def _refused(planned: "list[PlannedStage]") -> list[dict[str, str]]:
    """Of every stage, the sources that its gate does not let through, and why."""
    from configs.schema.corpus import ShardsStage
    from jobs.preflight.gate import refused_sources

    stages = {stage.name: stage.stage for stage in planned}
    return [refused_sources(one, stages) if isinstance(one, ShardsStage) else {} for one in stages.values()]


def plan_table(rows: list[dict[str, Any]], title: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in ("stage", "kind", "key", "will be", "what"):
        table.add_column(column, overflow="fold")
    words = {"done": "reused", "resume": "resumed", "new": "computed"}
    for row in rows:
        table.add_row(row["name"], row["kind"], row["key"], words[row["state"]], row["what"])
    return table
