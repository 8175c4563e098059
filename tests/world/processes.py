"""Finding processes which a test left behind."""

import os
from pathlib import Path

import psutil

MARK = "ACCLIMATE_TEST_PROCESS"
"""Environment variable by which a descendant of this test run is known even after its parents are gone."""

LIVE_AS_LONG_AS_PYTEST = ("tests.world.s3_server", "multiprocessing.resource_tracker", "multiprocessing.forkserver")


def descendants() -> dict[int, str]:
    """Living processes started by this one, directly or not, as pid -> command line."""
    mark = f"{MARK}={os.getpid()}\0".encode()
    own = {child.pid for child in psutil.Process().children(recursive=True)}
    found: dict[int, str] = {}
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit() or int(directory.name) == os.getpid():
            continue
        try:
            marked = mark in (directory / "environ").read_bytes() + b"\0"
            command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        # A zombie has no command line left: it is over, only not yet asked for its exit code.
        if (marked or int(directory.name) in own) and command:
            found[int(directory.name)] = command
    return {
        pid: command for pid, command in found.items() if not any(part in command for part in LIVE_AS_LONG_AS_PYTEST)
    }
