"""`run` and `eval`: the verbs that compute."""

import json
import os
import sys
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from jobs.cli.display import Display, summary_line
from jobs.cli.interrupts import stop_on_signals
from jobs.cli.places import StoreOption, load, load_config, store_argument
from jobs.cli.plan import ConfigArgument, JsonOption, OverridesArgument, plan_table, planned_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.runs import RunLog
    from cluster.storage import Store
    from configs.loader import Loaded
    from jobs.pipeline import PlannedStage, Watch
    from jobs.tracking import Track


def run(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    store: StoreOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before work starts on a cluster.")] = False,
) -> None:
    """Compute what is not done yet; the same command resumes an interrupted run."""
    loaded, opened = load(config, overrides, store)
    console = Console(stderr=True)
    _show_results(_execute(loaded, opened, console, yes), console)


def evaluate_models(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL... [KEY=VALUE]...",
            help="Names or keys of model artifacts, in the order of the table; then dotted overrides.",
        ),
    ],
    config: Annotated[str, typer.Option("--config", help="A run file whose first evaluate stage says which sets.")],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate models on the held-out sets of a run file."""
    from configs.loader import ConfigError

    # Neither a stage's name nor a key holds a "=".
    overrides = [argument for argument in models if "=" in argument]
    chosen = [f"artifact:{argument}" for argument in models if "=" not in argument]
    if not chosen:
        raise typer.BadParameter("no model is named; `acclimate ls` lists them")
    loaded = load_config(config, overrides, store)
    name = next((name for name, stage in loaded.run.stages.items() if stage.stage == "evaluate"), None)
    if name is None:
        raise ConfigError(f"{config}: no evaluate stage says which held-out sets to use")
    loaded, opened = load(config, [*overrides, f"stages.{name}.models={json.dumps(chosen)}"], store)
    console = Console(stderr=True)
    artifacts = _execute(loaded, opened, console, True, only=name)
    if as_json:
        print(json.dumps(artifacts[name].content.read_json("evaluation.json"), indent=2))  # noqa: T201 - data
    else:
        _show_results(artifacts, console)


def _execute(loaded: "Loaded", store: "Store", console: Console, yes: bool, only: str | None = None) -> dict[str, Any]:
    """Plans, checks, connects, computes, and keeps the run's log whatever happens."""
    from cluster.runs import RunLog
    from cluster.storage import check_store
    from jobs.pipeline import State, plan_run
    from jobs.preflight.stages import check, foresee
    from jobs.tracking import require_tracker

    check_store(store)
    require_tracker(loaded.run.tracking)
    planned = plan_run(loaded.run, store)
    # Also of what `only` leaves alone: checkpoints that the whole run would go on from must not look unwanted to `gc`.
    keys = {stage.name: f"{stage.stage.stage}-{stage.key}" for stage in planned}
    if only is not None:
        planned = [stage for stage in planned if stage.name == only]
    waiting = [stage for stage in planned if stage.state is not State.DONE]
    check(loaded.run, waiting, store)
    _ask(loaded, planned, store, console, yes)
    resolved = loaded.run.model_dump(mode="json")
    log = RunLog(store, loaded.run.name, resolved, keys, os.environ.get("ACCLIMATE_JOB_ID"))
    where = store_argument(loaded.run.store)
    console.print(f"run {log.run_id} · logs: acclimate logs -f {log.run_id}{where}", highlight=False, soft_wrap=True)

    def fetched(plan: "PlannedStage") -> None:
        """A model that was at a hub is here now: what follows is checked against it before any work on it."""
        behind = planned[planned.index(plan) + 1 :]
        foresee(loaded.run, [stage for stage in behind if stage.state is not State.DONE], store)

    with _closed_log(log):
        return _compute(loaded, store, planned, bool(waiting), log, console, fetched)


@contextmanager
def _closed_log(log: "RunLog") -> "Iterator[None]":
    """Whatever happens inside, the run's log ends with it."""
    from configs.errors import Stopped

    try:
        yield
    except Stopped as stopped:
        log.finish("cancelled", str(stopped))
        raise
    except KeyboardInterrupt:
        stopped = Stopped("stopped at once; the same command goes on from the last checkpoint")
        log.finish("cancelled", str(stopped))
        raise stopped from None
    except BaseException as error:
        log.finish("failed", str(error) or type(error).__name__)
        raise
    log.finish("succeeded")


def _compute(
    loaded: "Loaded",
    store: "Store",
    planned: "list[PlannedStage]",
    needs_ray: bool,
    log: "RunLog",
    console: Console,
    fetched: "Callable[[PlannedStage], None]",
) -> dict[str, Any]:
    from cluster.nodes import require_shared_store
    from cluster.session import connect
    from jobs.pipeline import execute
    from jobs.tracking import tracking

    run = loaded.run

    def warn(message: str) -> None:
        console.print(message, highlight=False)
        log.event(message, level="warning")

    with (
        stop_on_signals(console) as stop_asked,
        tracking(run.tracking, store, log.run_id, run.model_dump(mode="json"), warn) as track,
        Display(console) as display,
    ):
        watch = _watch(display, log, track, lambda: stop_asked() or log.stop_requested, fetched)
        if not needs_ray:
            return execute(loaded, store, planned, watch)
        console.print("starting Ray ..." if run.cluster.address == "local" else "connecting to Ray ...")
        with connect(run.cluster) as session:
            if not session.started_here:
                require_shared_store(store)
            return execute(loaded, store, planned, watch)


def _ask(loaded: "Loaded", planned: "list[PlannedStage]", store: "Store", console: Console, yes: bool) -> None:
    """A run on a cluster costs money: it is shown and confirmed first. A local one starts at once."""
    if yes or loaded.run.cluster.address == "local":
        return
    console.print(plan_table(planned_rows(planned), f"{loaded.run.name} in {store.root}"))
    if not sys.stdin.isatty():
        from configs.errors import UserError

        raise UserError("this run would start work on a cluster and nobody can be asked here; add --yes")
    typer.confirm("Start it?", abort=True, err=True)


def _watch(
    display: Display,
    log: "RunLog",
    track: "Track",
    stop_asked: Callable[[], bool],
    fetched: "Callable[[PlannedStage], None]",
) -> "Watch":
    from jobs.pipeline import Watch

    working = ""

    def started(plan: "PlannedStage") -> None:
        nonlocal working
        working = plan.name
        note = "resuming" if plan.state.value == "resume" else ""
        display.start(f"{plan.name}", f"({plan.stage.stage} {plan.key}) {note}")
        log.set(stage=plan.name)
        log.event(f"{plan.name}: started ({plan.stage.stage}-{plan.key}) {note}".rstrip())

    def metrics(values: dict[str, float]) -> None:
        display.metrics(values)
        log.event(f"{working} step {int(values['step'])}", data={"stage": working, **values})
        track(working, values)

    def say(sentence: str) -> None:
        display.say(sentence)
        log.event(f"{working}: {sentence}", level="warning")

    def finished(plan: "PlannedStage", outcome: Any, seconds: float) -> None:
        line = f"  {plan.name} done in {seconds:.0f} s{summary_line(outcome)}"
        display.end(line)
        log.event(line.strip())

    def reused(plan: "PlannedStage") -> None:
        display.end(f"  {plan.name} reused ({plan.stage.stage}-{plan.key})")
        log.event(f"{plan.name}: reused")

    def artifact(plan: "PlannedStage", done: Any) -> None:
        log.artifact(plan.name, f"{done.kind}-{done.key}")
        if done.kind == "model" and plan.state.value != "done":
            fetched(plan)

    return Watch(started, display.progress, metrics, say, finished, reused, artifact, stop_asked)


def _show_results(artifacts: dict[str, Any], console: Console) -> None:
    from configs.schema.run import TRAINED_KINDS
    from jobs.evaluate.report import table

    for name, artifact in artifacts.items():
        if artifact.kind == "evaluate":
            Console().print(table(artifact.content.read_json("evaluation.json")))
        if artifact.kind == "report":
            console.print(f"report: {artifact.content.path('report.html')}", highlight=False, soft_wrap=True)
        if artifact.kind in TRAINED_KINDS:
            console.print(f"model {name}: {artifact.content.path('model')}", highlight=False, soft_wrap=True)
