"""Errors a user can mend: every class of ours is one, and what Ray wraps around them comes off."""

import ast
import builtins
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
import ray.data

from cluster.storage import StorageError
from configs.errors import DoesNotFit, RunFailed, Unreachable, UserError, user_error_inside, with_exit_code
from jobs.corpus.partitions import run_partitions
from jobs.train.weights import WeightsError

CHECKOUT = Path(__file__).parents[2]
FOR_ROWS = {"RowError", "Refusal"}
"""The one becomes a line in quarantine and never leaves the readers, the other a name in the counts (jobs/corpus/fast_tokens.py)."""


def _exceptions_without_exit_code() -> set[str]:
    """Classes of our own that derive from a builtin exception and from nothing of configs/errors.py."""
    bases: dict[str, set[str]] = {}
    for folder in ("configs", "cluster", "jobs", "serving"):
        for path in (CHECKOUT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    bases[node.name] = {base.id for base in node.bases if isinstance(base, ast.Name)}

    def line(name: str) -> set[str]:
        return {name}.union(*(line(base) for base in bases.get(name, ())))

    def is_exception(name: str) -> bool:
        builtin = getattr(builtins, name, None)
        return isinstance(builtin, type) and issubclass(builtin, BaseException)

    ours = {name for name in bases if any(is_exception(base) for base in line(name))}
    assert {"WeightsError", "AssetError", "ModelNotOnNode"} <= ours
    return {name for name in ours if "UserError" not in line(name)}


def test_every_error_of_ours_has_an_exit_code() -> None:
    assert _exceptions_without_exit_code() == FOR_ROWS


def test_an_error_that_arrives_as_text_keeps_its_exit_code() -> None:
    for kind in (UserError, RunFailed, DoesNotFit, Unreachable):
        assert type(with_exit_code(kind.exit_code, "told")) is kind


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def _raise() -> None:
    raise WeightsError("model.safetensors is cut off; fetch it again")


def _raise_below() -> None:
    ray.get(ray.remote(_raise).remote())


class _Actor:
    def work(self) -> None:
        _raise()


@pytest.mark.cluster
@pytest.mark.parametrize("where", ["task", "task below a task", "actor"])
def test_what_ray_wraps_around_an_error_comes_off(local_ray: None, where: str) -> None:
    remote: Any = ray.remote(num_cpus=0.5)
    started = {
        "task": lambda: remote(_raise).remote(),
        "task below a task": lambda: remote(_raise_below).remote(),
        "actor": remote(_Actor).remote().work.remote,
    }[where]()
    with pytest.raises(Exception) as raised:
        ray.get(started)
    inside = user_error_inside(raised.value)
    assert type(inside).__name__ == "WeightsError" and str(inside) == "model.safetensors is cut off; fetch it again"


@pytest.mark.cluster
def test_a_store_that_fails_below_ray_data_is_no_traceback(local_ray: None) -> None:
    def read(unit: dict[str, Any]) -> Iterator[pa.Table]:
        raise StorageError("s3://bucket cannot be reached")
        yield pa.table({"partition": [0]})

    with pytest.raises(StorageError, match=r"^s3://bucket cannot be reached$"):
        run_partitions([{"unit": 1}], read, lambda partition, rows: {}, 1, "label", lambda *_: None)


def test_a_bug_stays_a_bug() -> None:
    assert user_error_inside(KeyError("x")) is None
    assert user_error_inside(None) is None
