"""Who dies where: by name, by role, by count, and once where that is asked for."""

import os
import signal
from multiprocessing import get_context
from pathlib import Path

import pytest

from cluster import kill_points

SPAWN = get_context("spawn")


def reach(environment: dict[str, str], who: str, names: list[str]) -> None:
    os.environ.update(environment)
    kill_points.this_is(who)
    for name in names:
        kill_points.reach(name)


def survives(environment: dict[str, str], who: str, *names: str) -> bool:
    """Whether a new process comes past the points, in this order."""
    process = SPAWN.Process(target=reach, args=(environment, who, list(names)))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode == 0


@pytest.mark.parametrize(
    ("wanted", "lives", "dies"),
    [
        ("inside_upload", ["during_pruning"], ["inside_upload"]),
        ("inside_upload:2", ["inside_upload", "during_pruning"], ["inside_upload", "during_pruning", "inside_upload"]),
        ("inside_upload/critic", ["inside_upload"], []),
        ("inside_upload/policy", [], ["inside_upload"]),
        ("inside_upload/critic,during_pruning", ["inside_upload"], ["inside_upload", "during_pruning"]),
    ],
)
def test_a_process_dies_where_it_is_told_to(wanted: str, lives: list[str], dies: list[str]) -> None:
    environment = {kill_points.ENVIRONMENT: wanted}
    assert survives(environment, "policy", *lives)
    assert not dies or not survives(environment, "policy", *dies)


def test_a_place_kills_once_where_the_dead_leave_files(tmp_path: Path) -> None:
    environment = {
        kill_points.ENVIRONMENT: "inside_upload/policy:1,during_pruning:1",
        kill_points.KILLED: str(tmp_path),
    }
    assert not survives(environment, "policy", "inside_upload")
    assert not survives(environment, "policy", "inside_upload", "during_pruning")
    assert survives(environment, "policy", "inside_upload", "during_pruning")
    assert {file.name for file in tmp_path.iterdir()} == {"inside_upload-policy:1", "during_pruning:1"}
