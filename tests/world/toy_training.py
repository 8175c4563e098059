"""A training job of seconds: the tiny model on packed rows made of random tokens."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.artifacts import artifact_directory
from cluster.storage import Store
from configs.schema.training import Checkpoints, LanguageModelStage, Optimizer, Resources
from jobs.train.loop import Ending, Host, TrainJob, run_training
from jobs.train.reader import shard_name

CONTEXT = 48


def write_toy_shards(store: Store, shards: int = 2, rows: int = 12, vocabulary: int = 100) -> Store:
    """Packed rows of two or three segments in `store`, laid out like a shards artifact; the held-out ones are the same."""
    generator = np.random.Generator(np.random.Philox(7))
    files: dict[str, dict[str, object]] = {}
    index: list[dict[str, object]] = []
    for shard in range(shards):
        packed = []
        for row in range(rows):
            lengths = [int(length) for length in generator.integers(4, CONTEXT // 3, size=generator.integers(2, 4))]
            ids = [int(token) for token in generator.integers(3, vocabulary, size=sum(lengths))]
            starts = np.cumsum([0, *lengths[:-1]]).tolist()
            weights = [0.0 if position in starts else 1.0 for position in range(len(ids))]
            packed.append({
                "input_ids": ids, "weights": weights, "segment_lengths": lengths,
                "document_ids": [1000 * shard + 10 * row + number for number in range(len(lengths))],
            })  # fmt: skip
            source = "papers" if row % 3 else "talks"
            index.append({"shard": shard, "row": row, "tokens": len(ids), "weight": sum(weights), "source": source})
        data = _parquet(packed)
        for split in ("train", "heldout"):
            store.write(f"{split}/{shard_name(shard)}", data)
            files[f"{split}/{shard_name(shard)}"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    for split in ("train", "heldout"):
        store.write(f"{split}/index.parquet", _parquet(index))
    store.write_json("manifest.json", {"files": files, "context": CONTEXT, "rows": "text"})
    return store


def toy_stage(steps: int = 6, ranks: int = 2, precision: str = "fp32", every_steps: int = 2) -> LanguageModelStage:
    return LanguageModelStage(
        stage="cpt", model="base", shards="rows", steps=steps, batch_tokens=4 * CONTEXT, micro_batch_tokens=2 * CONTEXT,
        precision=precision, optimizer=Optimizer(learning_rate=1e-2),  # pyright: ignore[reportArgumentType]
        checkpoints=Checkpoints(every_steps=every_steps, keep=2), resources=Resources(ranks=ranks),
    )  # fmt: skip


def toy_job(store: Store, model: Path, stage: LanguageModelStage, attempt: int = 1) -> TrainJob:
    """A job whose artifact lies in `store`, as if `attempt` held its lease."""
    shards = store.below("shards")
    if not shards.exists("manifest.json"):
        write_toy_shards(shards)
    artifact = artifact_directory(store, "cpt", "toy")
    artifact.write_json(f"lease/{attempt:06d}.json", {})
    assert stage.steps is not None
    return TrainJob(
        "toy", stage, 5, Store(str(model)), shards, CONTEXT, stage.steps, artifact, attempt,
        artifact.below("attempts", f"{attempt:06d}"),
    )  # fmt: skip


def train_toy(job: TrainJob) -> None:
    """What a rank runs; nobody asks it to stop."""
    assert run_training(job, Host()) is Ending.FINISHED


def model_digest(job: TrainJob) -> str:
    """sha256 over the exported weights."""
    digest = hashlib.sha256()
    for info in job.output.files("model"):
        if info.name.endswith(".safetensors"):
            digest.update(job.output.read("model", info.name))
    return digest.hexdigest()


def _parquet(rows: list[dict[str, object]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()
