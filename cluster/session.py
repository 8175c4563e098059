"""Starts a Ray for this process, or joins one that runs.

    local      -> a Ray on loopback with a directory of its own; ends with the block
    auto       -> the cluster this host belongs to (or RAY_ADDRESS)
    HOST:PORT  -> the cluster whose head is there

Where other hosts take part, they share no disk with us: the checkout travels as Ray's working directory. Nothing secret is
ever put into a runtime environment, because Ray shows it to everybody who may list jobs.
"""

import importlib.metadata
import logging
import os
import platform
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._private import services
from ray.exceptions import AuthenticationError

from cluster.checkout import CHECKOUT, copy_checkout
from cluster.preload import preload_environment
from configs.errors import Stopped, Unreachable
from configs.schema.run import Cluster

LOOPBACK = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"
"""A local Ray's address: nothing depends on an interface that may come and go. Ray replaces 127.0.0.1 on Linux by the
host's outer address (ray/_private/services.py, resolve_ip_for_localhost), other loopback addresses it leaves alone."""

DIRECTORIES = Path("/tmp")
"""Where a local Ray has its directory: Unix socket paths end at 107 characters and Ray adds about 70. Its name begins with
the driver's process id."""
KEPT = "kept"
"""A file in a directory whose logs somebody was told of."""

CONNECT_TIMEOUT_S = 10.0
"""A head in another region answers within a second; ten leave room for a busy one."""

START_TRIES = 4
START_TIMEOUT_WORDS = "timed out during startup"
"""Ray's limit of 30 s is a constant (ray/_private/node.py) and its error a bare Exception; a busy machine needs longer."""

IDLE_WORKER_S = 30
"""How long a worker process of a local Ray waits for work. Ray ends those beyond one a CPU after a second, and the next step of
a stage of Ray Data then starts its workers, and imports all that they need, anew."""

SUBMITTED_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets it for the driver of a submitted job (ray/_private/runtime_env/constants.py), whose working directory and
environment are already everywhere and must not be given twice."""


class ClusterUnreachable(Unreachable):
    """No Ray answers at the address, or it refuses us; the message says what to check."""


@dataclass(frozen=True)
class Session:
    """A connection of this process to a Ray.

    Example:
        Session(address="127.0.0.1:41231", started_here=True, directory=Path("/tmp/acclimate-4711-x1y2"))
    """

    address: str
    started_here: bool
    directory: Path | None
    """Logs and sockets of a Ray started here; None for one that was joined."""


@contextmanager
def connect(cluster: Cluster) -> Iterator[Session]:
    """Connects this process to the Ray that `cluster` names, and disconnects (or ends what was started) afterwards.

    Raises ClusterUnreachable; CheckoutTooLarge where the checkout would have to travel.
    """
    if cluster.address == "local":
        with _local(cluster.offered_cpus) as session:
            yield session
    else:
        with _joined(cluster.address) as session:
            yield session


def versions() -> dict[str, str]:
    """Python and the installed versions that must agree between a driver and its workers; "absent" where not installed."""
    return {"python": platform.python_version()} | {name: _installed(name) for name in ("ray", "torch", "vllm")}


def _installed(distribution: str) -> str:
    """vllm goes by three names: the CUDA build, and the CPU build under either of its own."""
    for name in (distribution, f"{distribution}-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "absent"


@contextmanager
def _local(logical_cpus: int) -> Iterator[Session]:
    _remove_dead_directories()
    directory = Path(tempfile.mkdtemp(prefix=f"acclimate-{os.getpid()}-", dir=DIRECTORIES))
    # Its only news is that the local Ray asks for a token, which it made itself.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    keep_logs = False
    try:
        _start(
            address="local",
            num_cpus=logical_cpus,
            include_dashboard=False,
            runtime_env={"env_vars": {**_import_path(), **preload_environment()}},
            _node_ip_address=LOOPBACK,
            _temp_dir=str(directory),
            _system_config={"idle_worker_killing_time_threshold_ms": 1000 * IDLE_WORKER_S},
        )
        yield Session(ray.get_runtime_context().gcs_address, started_here=True, directory=directory)
    except Exception as error:
        keep_logs = not isinstance(error, Stopped)
        if keep_logs:
            (directory / KEPT).touch()
            logging.getLogger(__name__).warning("the logs of this run's Ray stay in %s", directory)
        raise
    finally:
        ray.shutdown()
        if not keep_logs:
            shutil.rmtree(directory, ignore_errors=True)  # a worker that is still ending may add a last line to its log


def _remove_dead_directories() -> None:
    """Removes what Rays of killed drivers have left on this host; logs of a failed run stay, as it said."""
    for left in DIRECTORIES.glob("acclimate-*"):
        of_driver = re.fullmatch(r"acclimate-(\d+)-\w+", left.name)
        if of_driver and not psutil.pid_exists(int(of_driver[1])) and not (left / KEPT).exists():
            shutil.rmtree(left, ignore_errors=True)


def _start(**options: Any) -> None:
    """`_initialise`, again where Ray gives its own processes up. Raises ClusterUnreachable."""
    for left in reversed(range(START_TRIES)):
        try:
            with _sessions_of_their_own():
                return _initialise(**options)
        except Exception as error:
            if START_TIMEOUT_WORDS not in str(error):
                raise
            ray.shutdown()
            if not left:
                raise ClusterUnreachable(
                    f"Ray's own processes did not start within 30 s, {START_TRIES} times: this machine is too busy "
                    f"({os.getloadavg()[0]:.0f} processes want to run on {os.cpu_count()} cores). Run again when it is quieter."
                ) from error


@contextmanager
def _sessions_of_their_own() -> Iterator[None]:
    """Ray's node processes that start inside the block are in no process group or session of ours.

    `timeout`, shells and schedulers send a SIGTERM to our whole group, and a Ray that dies of it takes the checkpoint with it
    that we are about to write. Ray itself only blocks SIGINT for them (start_ray_process). On Linux they end with us by
    PR_SET_PDEATHSIG, which knows no groups; elsewhere Ray ends them by their group, so there it stays ours.
    """
    plain = services.ConsolePopen
    if sys.platform == "linux":
        services.ConsolePopen = partial(plain, start_new_session=True)
    try:
        yield
    finally:
        services.ConsolePopen = plain


def _initialise(**options: Any) -> None:
    """ray.init, after which a SIGTERM still reaches the caller's handler: Ray replaces it by one that exits at once."""
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(logging_level=logging.WARNING, log_to_driver=False, **options)
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _import_path() -> dict[str, str]:
    """Workers on this host import the same checkout as we do."""
    present = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": f"{CHECKOUT}:{present}" if present else str(CHECKOUT)}


@contextmanager
def _joined(address: str) -> Iterator[Session]:
    if address != "auto":
        require_listening(address)
    with tempfile.TemporaryDirectory(prefix="acclimate-checkout-") as copy:
        runtime_env: dict[str, Any] | None = None
        if SUBMITTED_JOB_VARIABLE not in os.environ:
            copy_checkout(Path(copy))
            runtime_env = {"working_dir": copy, "env_vars": preload_environment()}
        try:
            _initialise(address=address, runtime_env=runtime_env)
        except AuthenticationError as error:
            raise ClusterUnreachable(token_problem(address)) from error
        except (ConnectionError, TimeoutError, RuntimeError) as error:
            raise ClusterUnreachable(
                f"No Ray answers at {address} ({type(error).__name__}: {error}). "
                "Check the address with `ray status --address HOST:PORT`, or use `cluster.address=local`."
            ) from error
    try:
        yield Session(ray.get_runtime_context().gcs_address, started_here=False, directory=None)
    finally:
        ray.shutdown()


def require_listening(address: str, what: str = "GCS (6379") -> None:
    """Raises ClusterUnreachable unless something accepts connections at HOST:PORT within CONNECT_TIMEOUT_S.

    Args:
        what: listens there, with its usual port, for the message.
    """
    host, _, port = address.rpartition(":")
    assert host and port.isdigit(), address  # whoever took the address from a user has looked at it
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:  # OverflowError: a port above 65535
        raise ClusterUnreachable(
            f"Nothing answers at {address} ({error}). Check that the head runs, that the port is the one of its {what} "
            "unless started otherwise) and that a firewall or VPN lets you through."
        ) from error


def token_problem(address: str) -> str:
    """What to do about a refused token."""
    return (
        f"The Ray at {address} refuses our token. Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the cluster's token "
        "(or RAY_AUTH_TOKEN_PATH to a file that holds it); on the head, `ray get-auth-token` prints it."
    )
