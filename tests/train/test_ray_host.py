"""What a person reads when Ray has lost a group of ranks."""

from ray.exceptions import OutOfMemoryError
from ray.train import WorkerGroupError

from jobs.train.ray_host import _root_cause

KILLED = OutOfMemoryError(
    "Task was killed due to the node running low on memory.\nMemory on the node was 22.9GB / 24.0GB (0.954), which exceeds the "
    "memory usage threshold of 0.95.\nRefer to the documentation on how to address the out of memory issue: https://docs.ray.io"
)


def test_too_little_memory_is_said_with_what_to_lower() -> None:
    said = _root_cause(WorkerGroupError("[Rank 1]", {1: KILLED}))
    assert "ran out of memory" in said and "Refer to" not in said
    for way in ("micro_batch_tokens", "resources.ranks", "activation_checkpointing: true", "from the last checkpoint"):
        assert way in said


def test_any_other_error_is_told_by_its_innermost_words() -> None:
    inner = WorkerGroupError("[Rank 0]\nTraceback", {0: RuntimeError("first line\nshapes do not fit")})
    error = RuntimeError("outside")
    error.__cause__ = inner
    assert _root_cause(error) == "shapes do not fit"
