"""Packed rows from Parquet shards, in the order of the plan, one step ahead of the training.

    manifest + index --plan--> rows of this rank --shard files--> PackedBatch per micro-batch

A shard is checked against the manifest's sha256 when it is opened and kept until the plan leaves it: rows of an epoch are
ordered shard by shard (jobs/train/plan.py).
"""

import hashlib
import io
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.storage import Store
from configs.errors import RunFailed
from jobs.records import PackedRow
from jobs.train.batch import PackedBatch, empty_batch, pack_rows
from jobs.train.plan import RowTable, plan_step

OPEN_SHARDS = 3
"""A step touches two shards where it crosses from one to the next; the third is being read ahead."""


class ShardError(RunFailed):
    """A shard is missing or is not what its manifest says."""


@dataclass(frozen=True)
class StepBatch:
    """What one rank computes in one step."""

    micro_batches: tuple[PackedBatch, ...]
    denominator: float
    """Sum of weights over all ranks."""
    tokens: int
    """Over all ranks."""


def read_index(shards: Store, split: str) -> RowTable:
    """The index of a split. Raises ShardError where there is none or it is empty."""
    try:
        table = pq.read_table(io.BytesIO(shards.read(split, "index.parquet")))
    except FileNotFoundError as error:
        raise ShardError(f"{shards.root}: no {split}/index.parquet; is this a shards artifact?") from error
    if table.num_rows == 0:
        raise ShardError(f"{shards.root}: the {split} split has no rows")
    column = {name: table.column(name).to_numpy() for name in ("shard", "row", "tokens", "weight")}
    return RowTable(
        column["shard"].astype(np.int64), column["row"].astype(np.int64),
        column["tokens"].astype(np.int64), column["weight"].astype(np.float64),
    )  # fmt: skip


def read_shard(shards: Store, split: str, number: int, sha256: str) -> pa.Table:
    """One shard as a table. Raises ShardError where it is missing or damaged."""
    name = f"{split}/{shard_name(number)}"
    try:
        data = shards.read(name)
    except FileNotFoundError as error:
        raise ShardError(f"{shards.path(name)} is missing. {_how_to_rebuild(shards)}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise _damaged(shards, name, found, sha256)
    return pq.read_table(io.BytesIO(data))


def verify_shards(shards: Store) -> None:
    """Reads every file that training reads and compares it with the manifest. Raises ShardError naming the first bad one."""
    files = shards.read_json("manifest.json")["files"]
    for name, entry in files.items():
        if not name.startswith("train/"):
            continue
        try:
            with shards.open(name) as file:
                found = hashlib.file_digest(cast(Any, file), "sha256").hexdigest()
        except FileNotFoundError:
            raise ShardError(f"{shards.path(name)} is missing. {_how_to_rebuild(shards)}") from None
        if found != entry["sha256"]:
            raise _damaged(shards, name, found, entry["sha256"])


def _damaged(shards: Store, name: str, found: str, wanted: str) -> ShardError:
    return ShardError(
        f"{shards.path(name)} is damaged: sha256 {found[:12]}..., its manifest says {wanted[:12]}... "
        f"{_how_to_rebuild(shards)}"
    )


def _how_to_rebuild(shards: Store) -> str:
    """`shards` is the content of an artifact: .../<kind>-<key>/attempts/<number>."""
    return f"Remove {shards.root.partition('/attempts/')[0]} and run again to rebuild it."


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.parquet"


class RowReader:
    """Reads the batches of one rank. `batch(step)` returns at once where the steps are asked for in order."""

    def __init__(
        self,
        shards: Store,
        split: str,
        seed: int,
        rows_per_step: int,
        rank: int,
        world_size: int,
        micro_batch_tokens: int,
    ) -> None:
        self._shards, self._split, self._seed = shards, split, seed
        self._rows_per_step, self._rank, self._world_size = rows_per_step, rank, world_size
        self._micro_batch_tokens = micro_batch_tokens
        self._table = read_index(shards, split)
        files = shards.read_json("manifest.json")["files"]
        self._sha256 = {name: entry["sha256"] for name, entry in files.items()}
        self._open: OrderedDict[int, pa.Table] = OrderedDict()
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="reader")
        self._next: tuple[int, Future[StepBatch]] | None = None

    def batch(self, step: int) -> StepBatch:
        """The batch of `step`; the one of `step + 1` is read meanwhile. Raises ShardError."""
        if self._next is not None and self._next[0] == step:
            result = self._next[1].result()
        else:
            result = self._ahead.submit(self._read, step).result()
        self._next = (step + 1, self._ahead.submit(self._read, step + 1))
        return result

    def close(self) -> None:
        self._ahead.shutdown(wait=True, cancel_futures=True)

    def _read(self, step: int) -> StepBatch:
        plan = plan_step(self._table, self._seed, step, self._rows_per_step, self._world_size, self._micro_batch_tokens)
        batches = tuple(
            pack_rows([self._row(number) for number in rows]) if rows else empty_batch()
            for rows in plan.ranks[self._rank]
        )
        return StepBatch(batches, plan.denominator, plan.tokens)

    def _row(self, number: int) -> PackedRow:
        shard, row = int(self._table.shard[number]), int(self._table.row[number])
        if shard in self._open:
            self._open.move_to_end(shard)
        else:
            sha256 = self._sha256[f"{self._split}/{shard_name(shard)}"]
            self._open[shard] = read_shard(self._shards, self._split, shard, sha256)
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)
        table = self._open[shard]
        return PackedRow(**{name: table.column(name)[row].as_py() for name in PackedRow.__slots__})
