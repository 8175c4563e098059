"""Ray Data's part: read units in parallel, bring each partition's rows together, write each partition in one task.

    units --read (map)--> rows with a `partition` column --hash shuffle--> one call of `write` per partition --> reports

Ray retries lost tasks without limit, so `read` and `write` must be pure functions of their input; `write` puts whole files
whose bytes do not depend on the order in which rows arrive. Counters in actors would lose rows at every retry.
"""

import ctypes
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from ray.data.context import DEFAULT_SHUFFLE_INPUT_BATCH_BYTES
from ray.exceptions import RayError

from cluster import kill_points
from configs.errors import user_error_inside
from jobs.corpus.schema import shuffle_batch_bytes

MAX_READ_BLOCKS = 2000
"""Above this, a read task takes several units: Ray Data's scheduling costs some milliseconds a task."""

RETRY_ADVICE = "\nFailed to apply UDF transform"
"""What Ray Data writes behind the message of every error raised in a task (ray/data/_internal/util.py)."""

Report = dict[str, Any]
"""JSON-ready counts and file names of one partition."""
Read = Callable[[dict[str, Any]], Iterator[pa.Table]]
Write = Callable[[int, pa.Table], Report]
Progress = Callable[[str, int, int], None]
"""Called with (label, done, total)."""


def run_partitions(
    units: list[dict[str, Any]], read: Read, write: Write, partitions: int, label: str, progress: Progress
) -> list[Report]:
    """Reports of all partitions that have rows, in partition order.

    Args:
        units: what `read` is called with, one at a time; at least one row must come of all of them together.
        read: gives tables that all have the same schema, with an int32 column `partition`.
        write: called once per partition (more often after a loss), with all of its rows in any order.

    Raises:
        UserError: as raised inside `read` or `write`.
    """
    _be_quiet()
    context = ray.data.DataContext.get_current()
    context.shuffle_input_batch_bytes = int(shuffle_batch_bytes(partitions, DEFAULT_SHUFFLE_INPUT_BATCH_BYTES))

    def read_batch(batch: pa.Table) -> Iterator[pa.Table]:
        for unit in batch["unit"].to_pylist():
            yield from read(json.loads(unit))

    def write_block(block: pa.Table) -> Iterator[pa.Table]:
        partitions_here = sorted(block["partition"].unique().to_pylist())
        for partition in partitions_here:
            rows = block if len(partitions_here) == 1 else block.filter(pc.field("partition") == partition)
            report = {"partition": partition, "rows": rows.num_rows, "report": write(partition, rows)}
            del rows
            _give_back()
            yield pa.table({"report": [json.dumps(report)]})

    table = pa.table({"unit": [json.dumps(unit) for unit in units]})
    dataset = ray.data.from_arrow(table, override_num_blocks=min(len(units), MAX_READ_BLOCKS))
    dataset = dataset.map_batches(read_batch, batch_format="pyarrow", batch_size=1)
    dataset = dataset.repartition(partitions, keys=["partition"])
    dataset = dataset.map_batches(write_block, batch_format="pyarrow", batch_size=None)
    return _reports(dataset, partitions, label, progress)


def run_each(units: list[Report], work: Callable[[Report], Report], label: str, progress: Progress) -> list[Report]:
    """`work(unit)` of every unit in tasks of their own, in the order of the units. Raises UserError as raised inside."""
    _be_quiet()

    def work_batch(batch: pa.Table) -> Iterator[pa.Table]:
        for unit in batch["unit"].to_pylist():
            number, value = json.loads(unit)
            report = work(value)
            _give_back()
            yield pa.table({"report": [json.dumps({"partition": number, "report": report})]})

    table = pa.table({"unit": [json.dumps([number, unit]) for number, unit in enumerate(units)]})
    dataset = ray.data.from_arrow(table, override_num_blocks=min(len(units), MAX_READ_BLOCKS))
    dataset = dataset.map_batches(work_batch, batch_format="pyarrow", batch_size=1, num_cpus=_cpus_of_a_core())
    return _reports(dataset, len(units), label, progress)


def _cpus_of_a_core() -> float:
    """Logical CPUs of Ray for each core it has: a local one counts more, for what waits. More tokenizers than
    there are cores push each other out of the caches, and are slower together."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) > 1:
        return 1
    return max(1, nodes[0]["Resources"].get("CPU", 1) // len(os.sched_getaffinity(0)))


def _give_back() -> None:
    """What allocators keep of a partition; a worker of Ray waits for its next task with all of it."""
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def _reports(dataset: ray.data.Dataset, partitions: int, label: str, progress: Progress) -> list[Report]:
    reports: dict[int, Report] = {}
    progress(label, 0, partitions)
    try:
        for row in dataset.iter_rows():
            report = json.loads(row["report"])
            # A partition that came in two pieces would have overwritten its own files.
            assert report["partition"] not in reports, f"partition {report['partition']} was written in two pieces"
            reports[report["partition"]] = report["report"]
            kill_points.reach("partition_reported")
            progress(label, len(reports), partitions)
    except RayError as error:
        known = user_error_inside(error)
        raise error if known is None else type(known)(str(known).partition(RETRY_ADVICE)[0]) from None
    progress(label, partitions, partitions)
    return [reports[partition] for partition in sorted(reports)]


def add_counts(reports: list[Report], name: str) -> dict[str, int]:
    """The sum of one counter over the partitions, by key in alphabetical order."""
    total: Counter[str] = Counter()
    for report in reports:
        total.update(report[name])
    return dict(sorted(total.items()))


def _be_quiet() -> None:
    """Our progress is shown by the caller; Ray Data's bars and plans would tear it apart."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
