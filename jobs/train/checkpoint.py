"""Exact, asynchronous checkpoints of a sharded Learner, on disk and on S3.

    attempts/000002/checkpoints/step-000040/
        rank-00000-of-00002.safetensors    the rows of every tensor that this rank holds (fp32 masters, AdamW's moments);
                                           of replicas, which hold the same, the first one's
        history.json                       metrics of all steps so far
        checkpoint.json                    whose it is; files, sizes, sha256; written last: no record, no checkpoint

    save: copy of the shards -> (thread) file -> store -> all ranks agree -> record -> older checkpoints pruned
    load: newest record of any attempt -> each rank reads the rows it needs, whatever number of ranks wrote them

There is no generator state to save (jobs/train/plan.py keys all randomness) and no pickle: a shard of FSDP2 is a range of
rows, so safetensors holds it, and reading for another world size is reading other rows.
"""

import hashlib
import os
import shutil
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from cluster import kill_points
from cluster.lease import check_attempt
from cluster.storage import Store
from configs.errors import RunFailed
from jobs.train.learner import Learner
from jobs.train.weights import DTYPES, StoredTensor, list_tensors, read_rows

RECORD = "checkpoint.json"
HASH_CHUNK_BYTES = 2**22
SCRATCH = "acclimate-checkpoint-"
"""Directories in the temporary directory of a node begin so, followed by the process that writes there."""
STATE_TYPES = {**DTYPES, "U8": torch.uint8}
"""A training state has codes of 8-bit moments beside numbers."""


RECORDED = {"step", "attempt", "artifact", "ranks", "history"}
HISTORY = "history.json"


class CheckpointDamaged(RunFailed):
    """A file of a committed checkpoint is missing or is not what its record says, or the record is another artifact's."""


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint: the state after `step` optimizer steps."""

    directory: Store
    step: int
    record: dict[str, Any]

    def history(self) -> list[dict[str, float]]:
        """Metrics of all steps up to this one. Raises CheckpointDamaged."""
        _check_file(self, HISTORY, self.record["history"])
        return self.directory.read_json(HISTORY)


def find_checkpoints(artifact: Store, *role: str) -> list[Checkpoint]:
    """The committed checkpoints of all attempts, in the order of (step, attempt); the last is the one to resume from.

    Args:
        role: of the models of a stage that trains several.

    Raises:
        CheckpointDamaged: a record is cut off, or belongs to another artifact.
    """
    found = []
    for attempt in artifact.names("attempts"):
        for name in artifact.names("attempts", attempt, "checkpoints", *role):
            directory = artifact.below("attempts", attempt, "checkpoints", *role, name)
            try:
                record = _read_record(directory, artifact)
            except FileNotFoundError:
                continue  # never committed, or being pruned by the attempt that wrote it
            found.append(((record["step"], attempt), Checkpoint(directory, record["step"], record)))
    return [checkpoint for _, checkpoint in sorted(found, key=lambda item: item[0])]


def restore(learner: Learner, checkpoint: Checkpoint) -> None:
    """Loads the state into a Learner of any world size. Raises CheckpointDamaged."""
    for name, entry in checkpoint.record["ranks"].items():
        _check_file(checkpoint, name, entry)
    pieces: dict[str, list[tuple[int, StoredTensor]]] = {}
    # Only what the record names: a save that a killed life of more ranks never committed may lie beside it.
    for key, stored in list_tensors(checkpoint.directory, STATE_TYPES, checkpoint.record["ranks"]).items():
        name, _, first_row = key.rpartition("@")
        pieces.setdefault(name, []).append((int(first_row), stored))
    for name, span in learner.state_rows().items():
        _check_shape(checkpoint, name, pieces.get(name, []), span.full_shape)
    learner.load_state(lambda name, first, count: _read(checkpoint.directory, pieces[name], first, count))


def remove(checkpoint: Checkpoint) -> None:
    """The record goes first, so that none is half there."""
    checkpoint.directory.remove(RECORD)
    kill_points.reach("during_pruning")
    checkpoint.directory.remove()


class CheckpointWriter:
    """Saves the shards of one rank while training goes on; at most one save is under way.

    `artifact` is the directory that all attempts share, `attempt` the number whose lease this run holds.
    """

    def __init__(self, artifact: Store, attempt: int, keep: int, *role: str) -> None:
        self._artifact, self._attempt, self._keep, self._role = artifact, attempt, keep, role
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._running: Future[None] | None = None
        _remove_dead_scratch()
        # Its own group: collectives of this thread must not mix with those of the training thread.
        self._group = dist.new_group(backend="gloo")

    def save(self, learner: Learner, step: int, history: list[dict[str, float]], best: int | None = None) -> None:
        """Copies the state and returns; raises what the previous save raised.

        Args:
            best: a step whose checkpoint must not be pruned.
        """
        self.wait()
        rows = learner.state_rows()
        first_replica = learner.sharded.mesh["replicate"].get_local_rank() == 0
        # The name of a piece ends by its first row; an empty shard (fewer rows than ranks) has nothing to write.
        state = {
            f"{name}@{rows[name].first_row}": tensor.detach().to("cpu", copy=True)
            for name, tensor in learner.state().items()
            if tensor.numel() and first_replica
        }
        self._running = self._thread.submit(self._write, state, step, list(history), best)

    def wait(self) -> None:
        """Returns when the last save is committed; raises what it raised."""
        if self._running is not None:
            self._running.result()
            self._running = None

    def close(self) -> None:
        self.wait()
        self._thread.shutdown()

    def _write(self, state: dict[str, Tensor], step: int, history: list[dict[str, float]], best: int | None) -> None:
        rank, world_size = dist.get_rank(), dist.get_world_size()
        place = ("attempts", f"{self._attempt:06d}", "checkpoints", *self._role, f"step-{step:06d}")
        directory = self._artifact.below(*place)
        name = f"rank-{rank:05d}-of-{world_size:05d}.safetensors"
        if rank == 0 and directory.exists(RECORD):  # committed late by a life that has ended
            directory.remove(RECORD)
        dist.barrier(self._group)  # pyright: ignore[reportArgumentType]
        mine = _put(state, directory, name, rank == 0) if state else None
        everyone: list[dict[str, Any] | None] = [None] * world_size
        dist.all_gather_object(everyone, mine, group=self._group)
        if rank == 0:
            self._commit(directory, [entry for entry in everyone if entry], step, history)
            self._prune(best)

    def _commit(
        self, directory: Store, ranks: list[dict[str, Any]], step: int, history: list[dict[str, float]]
    ) -> None:
        check_attempt(self._artifact, self._attempt)
        directory.write_json(HISTORY, history)
        written = directory.read(HISTORY)
        directory.write_json(
            RECORD,
            {
                "step": step, "attempt": self._attempt, "artifact": _name(self._artifact),
                "ranks": {entry["name"]: {"size": entry["size"], "sha256": entry["sha256"]} for entry in ranks},
                "history": {"size": len(written), "sha256": hashlib.sha256(written).hexdigest()},
            },
        )  # fmt: skip

    def _prune(self, best: int | None) -> None:
        """Removes all but the newest checkpoints and the best."""
        for checkpoint in find_checkpoints(self._artifact, *self._role)[: -self._keep]:
            if checkpoint.step == best:
                continue
            check_attempt(self._artifact, self._attempt)
            remove(checkpoint)


def _remove_dead_scratch() -> None:
    """Removes what ranks that were killed while they saved have left on this node: each holds its part of a state."""
    for left in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"):
        pid = left.name.removeprefix(SCRATCH).partition("-")[0]
        if not (pid.isdigit() and psutil.pid_exists(int(pid))):
            shutil.rmtree(left, ignore_errors=True)


def _put(state: dict[str, Tensor], directory: Store, name: str, first: bool) -> dict[str, Any]:
    """Uploads one rank's file; its entry in the record."""
    with tempfile.TemporaryDirectory(prefix=f"{SCRATCH}{os.getpid()}-") as scratch:
        local = Path(scratch) / name
        save_file(state, local)
        # A rank that dies here has put its file if it is the first, and has not if it is another: some are there, not all.
        if not first:
            kill_points.reach("inside_upload")
        directory.put(local, name)
        if first:
            kill_points.reach("inside_upload")
        return {"name": name, "size": local.stat().st_size, "sha256": _sha256(local)}


def _name(artifact: Store) -> str:
    """Kind and key of an artifact: what its checkpoints belong to, in whatever store they lie."""
    return artifact.root.rstrip("/").rpartition("/")[2]


def _read_record(directory: Store, artifact: Store) -> dict[str, Any]:
    advice = f"remove {directory.root} to resume from the one before"
    try:
        record = directory.read_json(RECORD)
    except ValueError as error:
        raise CheckpointDamaged(f"{directory.path(RECORD)} is damaged ({error}); {advice}") from error
    missing = RECORDED - record.keys() if isinstance(record, dict) else RECORDED
    if missing:
        raise CheckpointDamaged(f"{directory.path(RECORD)} does not say {', '.join(sorted(missing))}; {advice}")
    if record["artifact"] != _name(artifact):
        raise CheckpointDamaged(f"{directory.root} is a checkpoint of {record['artifact']}, not of this run; {advice}")
    return record


def _check_shape(
    checkpoint: Checkpoint, name: str, pieces: list[tuple[int, StoredTensor]], full_shape: tuple[int, ...]
) -> None:
    rows = sum(stored.shape[0] for _, stored in pieces)
    widths = {stored.shape[1:] for _, stored in pieces} or {full_shape[1:]}
    if rows != full_shape[0] or widths != {full_shape[1:]}:
        found = " and ".join(f"{rows} rows of {list(width)}" for width in sorted(widths))
        raise CheckpointDamaged(
            f"{checkpoint.directory.root} is of another model: it has {found} of {name}, this one {list(full_shape)}"
        )


def _check_file(checkpoint: Checkpoint, name: str, entry: dict[str, Any]) -> None:
    path = checkpoint.directory.path(name)
    digest, size = hashlib.sha256(), 0
    try:
        with checkpoint.directory.open(name) as file:
            while chunk := file.read(HASH_CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
    except FileNotFoundError as error:
        raise CheckpointDamaged(
            f"{path} is missing; remove {checkpoint.directory.root} to resume from the one before"
        ) from error
    if size != entry["size"] or digest.hexdigest() != entry["sha256"]:
        raise CheckpointDamaged(f"{path} is damaged; remove {checkpoint.directory.root} to resume from the one before")


def _read(directory: Store, pieces: list[tuple[int, StoredTensor]], first: int, count: int) -> Tensor:
    """Rows `first` to `first + count` of a tensor whose pieces (first row, place) lie in the files of several ranks."""
    whole = torch.empty(count, *pieces[0][1].shape[1:], dtype=pieces[0][1].dtype)
    filled = 0
    for start, stored in pieces:
        low, high = max(first, start), min(first + count, start + stored.shape[0])
        if low < high:
            read_rows(directory, stored, low - start, whole[low - first : high - first])
            filled += high - low
    assert filled == count, (first, count, filled)
    return whole


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
