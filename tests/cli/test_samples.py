"""`samples` of stages that have not ended, have not begun, or have answered now and then only."""

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.artifacts import artifact_directory
from cluster.storage import Store
from jobs.ppo.experience import Experience
from jobs.ppo.job import Asked
from jobs.ppo.samples import SAMPLE_SCHEMA, SampleWriter
from tests.ppo.rollouts import make_rollouts
from tests.world.command import acclimate

FIRST, SECOND = "a" * 16, "b" * 16
NAN = float("nan")


def write_samples(store: Store, key: str, name: str, score: float) -> None:
    row = {field.name: None for field in SAMPLE_SCHEMA} | {
        "score": score,
        "answer_ids": [5, 2],
        "question": "Why?",
        "answer": "So.",
    }
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([row], schema=SAMPLE_SCHEMA), sink)
    artifact_directory(store, "ppo", key).write(f"samples/{name}.parquet", sink.getvalue())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A run of two ppo stages that works on the first."""
    store = Store(str(tmp_path))
    planned = {"base": f"model-{'c' * 16}", "first": f"ppo-{FIRST}", "second": f"ppo-{SECOND}"}
    status = {"run_id": "demo-1", "name": "demo", "status": "succeeded", "created_at": 0.0, "planned": planned}
    store.write_json("runs/demo-1/status.json", status)
    return store


def shown(store: Store, *arguments: str) -> dict[str, Any]:
    answer = acclimate("samples", *arguments, "--store", store.root, "--json")
    assert answer.code == 0, answer.stderr
    return json.loads(answer.stdout)


def said(store: Store, *arguments: str) -> str:
    answer = acclimate("samples", *arguments, "--store", store.root)
    assert answer.code == 2 and answer.stdout == ""
    return " ".join(answer.stderr.split())


def test_of_a_run_with_two_stages_the_last_that_has_answered_is_shown(store: Store) -> None:
    write_samples(store, FIRST, "step-000001", 1.0)
    assert shown(store, "demo")["samples"][0]["score"] == 1
    write_samples(store, SECOND, "step-000001", 2.0)
    assert shown(store, "demo-1")["samples"][0]["score"] == 2
    assert shown(store, FIRST)["samples"][0]["score"] == shown(store, f"ppo-{FIRST}")["samples"][0]["score"] == 1


def test_what_is_not_there_is_said_with_what_is(store: Store) -> None:
    assert "demo has no samples yet; they are written with every step" in said(store, "demo")
    for step in (0, 10, 20):
        write_samples(store, FIRST, f"heldout-{step:06d}", 1.0)
        write_samples(store, FIRST, f"step-{step // 10 + 1:06d}", 1.0)
    assert "no held-out samples of step 5: there are steps 0, 10, 20" in said(store, "demo", "--heldout", "--step", "5")
    assert "no samples of step 0: there are steps 1 to 3" in said(store, "demo", "--step", "0")


def test_a_missing_opinion_is_null(tmp_path: Path) -> None:
    """NaN is no JSON; what reads `--json` would stop at it."""
    store = Store(str(tmp_path))
    directory = artifact_directory(store, "ppo", FIRST)
    directory.write_json("lease/000001.json", {})
    writer: Any = SampleWriter.__new__(SampleWriter)
    writer._job, writer._decode = SimpleNamespace(artifact=directory, attempt=1), str
    answers = {0: make_rollouts([(4, 3), (4, 5)])}
    sources = ({0: 1.0, 1: 2.0}, {0: 0.5, 1: NAN})
    writer.write(Asked("heldout", 0), Experience(answers, {0: 1.0, 1: 2.0}, {}, {}, {}, 2, {0: NAN, 1: 3.0}, sources))
    rows = shown(store, FIRST, "--heldout")["samples"]
    assert [row["gold"] for row in rows] == [3.0, None]
    assert [row["source_scores"] for row in rows] == [[2.0, None], [1.0, 0.5]]
    table = acclimate("samples", FIRST, "--heldout", "--store", store.root).stdout
    assert "gold" in table and "3.000" in table
