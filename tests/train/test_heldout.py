"""What is measured on held-out rows, and what becomes of it."""

import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from torch.distributed.device_mesh import DeviceMesh

from cluster.storage import Store
from configs.schema.training import HeldoutEvaluation
from jobs.records import PackedRow
from jobs.train.batch import pack_rows
from jobs.train.heldout import changes, measure, open_sets
from jobs.train.learner import Learner, LearnerSpec
from jobs.train.reader import read_index
from tests.world.toy_training import toy_stage, write_toy_shards

HISTORY = [
    {"step": 0, "heldout/loss": 2.0, "general/perplexity": 9.0},
    {"step": 5, "loss": 1.5, "heldout/loss": 1.0, "general/perplexity": 9.5},
    {"step": 7, "loss": 1.2},
    {"step": 10, "loss": 1.1, "heldout/loss": 3.0, "general/perplexity": 12.0},
]


def test_the_record_holds_the_evaluation_of_the_exported_weights() -> None:
    before = {"heldout/loss_before": 2.0, "general/perplexity_before": 9.0}
    assert changes(HISTORY, "last") == before | {"heldout/loss": 3.0, "general/perplexity": 12.0}
    assert changes(HISTORY, "best") == before | {"exported_step": 5, "heldout/loss": 1.0, "general/perplexity": 9.5}
    assert changes(HISTORY[:1] + HISTORY[3:], "best")["heldout/loss"] == 2.0
    assert changes([{"step": 1, "loss": 1.0}], "best") == {}


def test_loss_is_told_by_source(tiny_model: Path, tmp_path: Path, one_rank: DeviceMesh) -> None:
    """The mean over the tokens of a source's rows, each row scored alone; of the first ten rows only."""
    learner = Learner(LearnerSpec(Store(str(tiny_model)), "fp32", None), one_rank)
    learner.load()
    shards = write_toy_shards(Store(str(tmp_path)))
    index = read_index(shards, "heldout").first(10)
    rows = pq.read_table(io.BytesIO(shards.read("heldout/shard-00000.parquet"))).to_pylist()
    sums: dict[str, list[float]] = {"papers": [0.0, 0.0], "talks": [0.0, 0.0]}
    for source, row in zip(index.source, rows, strict=False):
        logprobs = learner.forward(pack_rows([PackedRow(**row)]))
        sums[source][0] -= float(logprobs.sum())
        sums[source][1] += len(logprobs)
    stage = toy_stage().model_copy(update={"heldout": HeldoutEvaluation(rows=10)})
    measured = measure(learner, open_sets(stage, shards, None))
    for source, (loss, tokens) in sums.items():
        assert measured[f"heldout/{source}/loss"] == pytest.approx(loss / tokens, rel=1e-5)
    losses, tokens = (sum(parts) for parts in zip(*sums.values(), strict=True))
    assert measured["heldout/loss"] == pytest.approx(losses / tokens, rel=1e-5)
    assert abs(measured["heldout/papers/loss"] - measured["heldout/talks/loss"]) > 1e-3


def test_rows_of_one_source_have_one_loss(tiny_model: Path, tmp_path: Path, one_rank: DeviceMesh) -> None:
    learner = Learner(LearnerSpec(Store(str(tiny_model)), "fp32", None), one_rank)
    learner.load()
    stage = toy_stage().model_copy(update={"heldout": HeldoutEvaluation(rows=1)})
    measured = measure(learner, open_sets(stage, write_toy_shards(Store(str(tmp_path))), None))
    assert set(measured) == {"heldout/loss", "heldout/perplexity"}
