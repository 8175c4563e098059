"""`acclimate submit | status | logs | stop`: send a run to a cluster, and look after runs wherever they are.

An id is a run's (`acclimate ls`, kept in the store) or a job's (printed by `submit`, kept by the cluster). A run's id is
looked up first: the store remembers it when the cluster is gone.
"""

import asyncio
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from configs.errors import RunFailed
from jobs.cli.places import StoreOption, load_config, open_for_looking, store_argument, store_root

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

    from cluster.storage import Store

STATUS_EXIT_CODES = {"succeeded": 0, "failed": 100, "cancelled": 103}
"""As SkyPilot's (sky/exceptions.py, JobExitCode): scripts that wait for a job know them."""
NOT_FINISHED, NOT_FOUND = 101, 102
STATUS_KEYS = (
    "run_id", "job_id", "name", "status", "stage", "error", "message", "driver_exit_code", "created_at", "seen_at",
    "finished_at", "artifacts",
)  # fmt: skip
"""What people are shown of a status, in this order; --json has all of it."""
POLL_S = 1.0
"""A run writes its events every 2 s."""

Id = Annotated[str, typer.Argument(help="A run id (`acclimate ls`) or a job id (`acclimate submit`).")]
Address = Annotated[
    str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="Ray dashboard of the cluster, for job ids.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
DASHBOARD = "http://127.0.0.1:8265"


def submit(
    config: Annotated[str, typer.Argument(help="A run file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Dotted overrides, e.g. store=s3://bucket/runs")] = None,
    address: Address = DASHBOARD,
    store: StoreOption = None,
    as_json: Json = False,
) -> None:
    """Ship this checkout to a Ray cluster and run a config there. Credentials do not travel: the cluster needs its own."""
    from cluster import submit as jobs

    run = load_config(config, overrides, store).run
    screen = Console(stderr=True)
    client = jobs.reach(address)
    screen.print(f"comparing versions and sending the checkout to {address} ...")
    job_id = jobs.submit_run(client, run)
    if as_json:
        typer.echo(json.dumps({"job_id": job_id, "address": address, "store": run.store}))
        return
    at = "" if address == DASHBOARD else f" --address {address}"
    typer.echo(job_id)
    for verb in ("status", "logs -f", "stop"):
        screen.print(f"  acclimate {verb} {job_id}{at}", highlight=False, soft_wrap=True)


def status(
    id: Id,
    store: StoreOption = None,
    address: Address = DASHBOARD,
    as_json: Json = False,
    exit_code: Annotated[
        bool,
        typer.Option("--exit-code", help="Say it by exit code: 0, 100 failed, 101 not yet, 102 unknown, 103 stopped."),
    ] = False,
) -> None:
    """How a run or a submitted job is doing."""
    from cluster.submit import JobNotFound

    try:
        found = _find(id, open_for_looking(store), address)
    except JobNotFound as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(NOT_FOUND if exit_code else error.exit_code) from None
    if as_json:
        typer.echo(json.dumps(found))
    else:
        typer.echo(_as_lines(found))
    if exit_code:
        raise typer.Exit(STATUS_EXIT_CODES.get(found["status"], NOT_FINISHED))


def logs(
    id: Id,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on until it ends; exit code 1 if it failed.")
    ] = False,
    store: StoreOption = None,
    address: Address = DASHBOARD,
    as_json: Annotated[bool, typer.Option("--json", help="A run's events as JSON lines.")] = False,
) -> None:
    """What a run or a submitted job says."""
    from cluster.storage import open_store

    looked = open_for_looking(store)
    if _find_run(looked, id) is None:
        _job_logs(id, looked, address, follow)
        return
    # Whoever follows a run for hours outlasts an outage of its store, as the run does.
    opened = open_store(looked.root) if follow else looked
    _print_events(opened, id, follow, _json_line if as_json else _event_line)
    if follow and _find_run(opened, id)["status"] != "succeeded":  # type: ignore[index]
        raise typer.Exit(RunFailed.exit_code)


def stop(id: Id, store: StoreOption = None, address: Address = DASHBOARD) -> None:
    """Stop a run or a submitted job: it writes a checkpoint and ends; the same command resumes it."""
    from cluster.runs import request_stop

    opened = open_for_looking(store)
    run = _find_run(opened, id)
    if run is not None and run["status"] in STATUS_EXIT_CODES:
        typer.echo(f"{id} had {run['status']} before", err=True)
    elif run is not None:
        request_stop(opened, id)
        at = store_argument(store_root(store))
        typer.echo(f"asked {id} to stop at its next step; `acclimate status {id}{at}` says when it has", err=True)
    else:
        _stop_job(id, opened, address)


def _find(id: str, store: "Store", address: str) -> dict[str, Any]:
    run = _find_run(store, id)
    if run is not None:
        return run
    from dataclasses import asdict

    from cluster.submit import describe

    return asdict(describe(_client(id, store, address), id))


def _find_run(store: "Store", id: str) -> dict[str, Any] | None:
    from cluster.runs import read_status

    try:
        return read_status(store, id)
    except FileNotFoundError:
        return None


def _client(id: str, store: "Store", address: str) -> "JobSubmissionClient":
    """Raises JobNotFound for what cannot be a job's id, so that a typo does not end in a network error."""
    from cluster.runs import list_runs
    from cluster.submit import JobNotFound, reach

    if not id.startswith(("job-", "raysubmit_")):
        known = ", ".join(status["run_id"] for status in list_runs(store)[-5:]) or "none"
        raise JobNotFound(f"{store.root} has no run {id!r} (newest: {known}), and job ids begin with job-")
    return reach(address)


def _print_events(store: "Store", run_id: str, follow: bool, line: Callable[[dict[str, Any]], str]) -> None:
    from cluster.runs import FINISHED, read_events, read_status

    segment = -1
    while True:
        # Asked before the events are read: what is written after the last word is not missed.
        ended = not follow or read_status(store, run_id)["status"] in FINISHED
        for written, event in list(read_events(store, run_id, segment)):
            typer.echo(line(event))
            segment = written
        if ended:
            return
        time.sleep(POLL_S)


def _json_line(event: dict[str, Any]) -> str:
    return json.dumps(event, ensure_ascii=False)


def _event_line(event: dict[str, Any]) -> str:
    clock = time.strftime("%H:%M:%S", time.localtime(event["created_at"]))
    numbers = "  ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in event["data"].items()
        if key not in ("stage", "step")  # both stand in the message
    )
    level = "" if event["level"] == "info" else f"{event['level'].upper()} "
    return f"{clock} {level}{event['message']}  {numbers}".rstrip()


def _as_lines(found: dict[str, Any]) -> str:
    def shown(key: str, value: Any) -> str:
        if isinstance(value, dict):
            return f"\n{'':18}".join(value.values())
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value)) if key.endswith("_at") else str(value)

    keys = [key for key in STATUS_KEYS if found.get(key) not in (None, "", {})]
    return "\n".join(f"{key:>16}  {shown(key, found[key])}" for key in keys)


def _job_logs(id: str, store: "Store", address: str, follow: bool) -> None:
    from cluster import submit as jobs

    client = _client(id, store, address)
    if not follow:
        typer.echo(jobs.logs(client, id), nl=False)
        return

    async def print_until_it_ends() -> None:
        async for lines in jobs.follow(client, id):
            typer.echo(lines, nl=False)

    asyncio.run(print_until_it_ends())
    if jobs.describe(client, id).status != "succeeded":
        raise typer.Exit(RunFailed.exit_code)


def _stop_job(id: str, store: "Store", address: str) -> None:
    from cluster.submit import STOP_WAIT_S, stop

    if stop(_client(id, store, address), id):
        typer.echo(f"asked {id} to stop; it has {STOP_WAIT_S} s to write a checkpoint", err=True)
    else:
        typer.echo(f"{id} had ended before", err=True)
