"""Rewards on a common scale: by hand, and at the end of a training run."""

import hashlib
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cluster.artifacts import artifact_directory
from cluster.storage import Store
from configs.errors import RunFailed
from configs.schema.objectives import Lora
from configs.schema.training import HeldoutEvaluation, Optimizer, Resources, RewardStage
from jobs.merging import merge_into
from jobs.records import ExampleRow
from jobs.train.examples import pack_examples
from jobs.train.fsdp import build_mesh
from jobs.train.learner import Learner, LearnerSpec
from jobs.train.loop import Ending, Host, TrainJob, run_training
from jobs.train.reader import shard_name
from jobs.train.reward_scale import RewardScale, read_scale, scale_of
from tests.train.judged import make_pairs
from tests.train.ranks import run_ranks
from tests.train.tiny_models import save_tiny_model

CONTEXT = 64


def test_scale_by_hand() -> None:
    """Scores 1, 2, 6: mean 3, variance (4 + 1 + 9) / 3."""
    scale = scale_of(3, 9, 1 + 4 + 36)
    assert scale == RewardScale(3, pytest.approx((14 / 3) ** 0.5), 3)
    normalised = scale.normalised(torch.tensor([1.0, 2.0, 6.0]))
    assert float(normalised.mean()) == pytest.approx(0, abs=1e-6)
    assert float(normalised.std(correction=0)) == pytest.approx(1)


def test_scores_that_do_not_differ_have_no_scale() -> None:
    with pytest.raises(RunFailed, match=r"3 answers the same score \(0.1\)"):
        scale_of(3, 0.3, 0.03)


def write_pairs(store: Store) -> Store:
    """Eight pairs to train on and four held out, laid out like a shards artifact."""
    files: dict[str, object] = {}
    pairs = make_pairs(8)
    for split, rows in (("train", pairs[:4] * 2), ("heldout", pairs[4:])):
        data = _parquet([{name: getattr(row, name) for name in ExampleRow.__slots__} for row in rows])
        store.write(f"{split}/{shard_name(0)}", data)
        files[f"{split}/{shard_name(0)}"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        index = [
            {"shard": 0, "row": number, "tokens": len(row.input_ids), "weight": sum(row.weights), "source": "people"}
            for number, row in enumerate(rows)
        ]
        store.write(f"{split}/index.parquet", _parquet(index))
    store.write_json("manifest.json", {"files": files, "context": CONTEXT, "rows": "preferences"})
    return store


def _parquet(rows: list[dict[str, object]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def train_and_score(job: TrainJob) -> torch.Tensor:
    """Trains, then scores the held-out answers with a frozen model from the artifact."""
    assert run_training(job, Host()) is Ending.FINISHED
    spec = LearnerSpec(job.output.below("model"), "fp32", None, head="scores")
    scorer = Learner(spec, build_mesh(torch.distributed.get_world_size()))
    scorer.load()
    return scorer.forward(pack_examples(make_pairs(8)[4:]))


@pytest.mark.cluster
@pytest.mark.parametrize("lora", [None, Lora(rank=2, alpha=4)])
def test_a_trained_reward_model_scores_on_the_common_scale(tmp_path: Path, lora: Lora | None) -> None:
    store = Store(str(tmp_path))
    base = save_tiny_model(tmp_path / "base")
    stage = RewardStage(
        stage="reward", model="base", shards="pairs", steps=3, batch_examples=4, micro_batch_tokens=64, precision="fp32",
        optimizer=Optimizer(learning_rate=1e-2), heldout=HeldoutEvaluation(every_steps=3), resources=Resources(ranks=2), lora=lora,
    )  # fmt: skip
    artifact = artifact_directory(store, "reward", "toy")
    artifact.write_json("lease/000001.json", {})
    output = artifact.below("attempts", "000001")
    job = TrainJob(
        "reward", stage, 5, Store(str(base)), write_pairs(store.below("shards")), CONTEXT, 3, artifact, 1, output
    )
    scores = run_ranks(2, train_and_score, job)
    assert torch.equal(scores[0], scores[1])
    assert float(scores[0].mean()) == pytest.approx(0, abs=1e-4)
    assert float(scores[0].std(correction=0)) == pytest.approx(1, abs=1e-4)
    scale = read_scale(output.below("model"))
    assert scale is not None and scale.answers == 8 and abs(scale.mean) > 1e-3
    if lora is not None:
        merge_into(output.below("adapter"), Store(str(base)), store.below("merged"))
        assert read_scale(store.below("merged")) == scale
