"""What a model makes of every held-out example, by the objective's own loss: one example a micro-batch.

held-out rows --Learner.forward, one at a time--> loss and metrics of each --> RowScores
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster.storage import Store
from configs.schema.training import TrainStage
from jobs.evaluate.scorer import lone_rank
from jobs.train.fsdp import build_mesh, set_threads
from jobs.train.learner import Learner, LearnerSpec
from jobs.train.objectives import learns_best_prompt, objective_of
from jobs.train.reader import References, RowReader, read_index, read_shard, shard_name

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class RowScores:
    """Numbers of R held-out rows, in the order of their index; (R,) each."""

    loss: Numbers
    metrics: dict[str, Numbers]
    """NaN where a metric has no value for a row: of a thumb up, what is counted for thumbs down."""


@contextmanager
def scorer(stage: TrainStage, model: Store, seed: int) -> Iterator[Learner]:
    """The model as the stage computes with it, without an optimizer; a reward model's new head is the one `seed` draws."""
    set_threads(1)  # several would wait for each other whenever the machine has other work
    with lone_rank():
        learner = Learner(
            LearnerSpec(model, stage.precision, optimizer=None, head=objective_of(stage).head, seed=seed), build_mesh(1)
        )
        learner.load()
        yield learner


def one_row_at_a_time(stage: TrainStage, shards: Store, rows: int, references: References | None = None) -> RowReader:
    """The first held-out rows, each a micro-batch."""
    reader = RowReader(
        shards, "heldout", 0, rows, rank=0, world_size=1, micro_batch_tokens=1,
        learn_best_prompt=learns_best_prompt(stage), most_rows=rows,
    )  # fmt: skip
    reader.references = references
    return reader


def score_rows(learner: Learner, stage: TrainStage, reader: RowReader) -> RowScores:
    """Loss and metrics of every row of `one_row_at_a_time`.

    What an objective takes from the whole batch, as KTO its reference point, is taken from all rows.
    """
    batch = reader.read(0)
    reader.close()
    loss_function = objective_of(stage).loss_of_step(learner, batch)
    order = np.argsort([row for (row,) in batch.rows])
    losses: list[float] = []
    metrics: dict[str, list[float]] = {}
    for part in batch.micro_batches:
        contribution = loss_function(learner.forward(part).cpu(), part)
        losses.append(float(contribution.loss) * batch.examples)
        for name, mean in contribution.metrics.items():
            count = float(mean.count)
            metrics.setdefault(name, []).append(float(mean.total) / count if count else np.nan)
    return RowScores(np.array(losses)[order], {name: np.array(values)[order] for name, values in metrics.items()})


def documents_of(shards: Store, rows: int) -> list[int]:
    """The document of each of the first held-out rows."""
    index = read_index(shards, "heldout").first(rows)
    files = shards.read_json("manifest.json")["files"]
    tables = {
        number: read_shard(shards, "heldout", number, files[f"heldout/{shard_name(number)}"]["sha256"])
        for number in sorted(set(index.shard.tolist()))
    }
    return [
        tables[shard]["document_ids"][row].as_py()[0]
        for shard, row in zip(index.shard.tolist(), index.row.tolist(), strict=True)
    ]
