"""What of a corpus or shards stage breaks first, from how many bytes on, and the setting that mends it.

    work x Nodes --needs of each limit--> the size at which it is met --smallest first--> mended, looked at again --> Broken, ...

Where what is held, and read off the code: a partition in one task (jobs/corpus/writing.py, shard_rows.py), pairs by key and all
clusters in one task (clusters.py), a part of the clusters again in every task (comparing.py), pieces of a shuffle and the index
of rows on the driver (Ray Data's ShuffleMapOp; shards.py).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from jobs.corpus.schema import MOST_READS
from jobs.estimate.corpus import cluster_parts, fullest
from jobs.estimate.corpus_rates import BANDS, HELD, KEY_ROW_BYTES, SHA256_BYTES, TASK_SHARE
from jobs.estimate.corpus_work import CorpusWork, Nodes, ShardsWork, corpus_volumes, rows_of, shards_volumes, tokens_of

Work = CorpusWork | ShardsWork
Needs = Callable[[Any, Nodes], float]
"""Of a CorpusWork or of a ShardsWork, as the limit is one of a corpus or of shards."""

MOST_OF_INT32 = 2**31
"""Offsets of Arrow's string and list columns."""
TOKEN_BYTES = 4
MOST_PARTITIONS = 100_000
"""configs/schema/tree.py, FileCount."""
LARGEST_BYTES = 1e18
"""Beyond this nothing is looked for."""

PARTITION, STRINGS, TOKENS, KEYS = (
    "memory of a node: what its tasks hold of a partition each", "2 GiB of hashes in a column of a partition",
    "8.6 GB of tokens (2**31) in a shard", "memory of a node: what its tasks hold of the keys of a partition each",
)  # fmt: skip
PIECES, SPILLED, CLUSTER, CLUSTERS, INDEX = (
    "memory of the driver: the pieces of the shuffle", "disks of the nodes: what the object stores spill",
    "memory of a node: all clusters of near-duplicates in one task",
    "memory of a node: a part of the clusters in every task", "memory of the driver: the index of packed rows",
)  # fmt: skip
BY_PARTITIONS = (PARTITION, STRINGS, TOKENS, KEYS)
"""More partitions mend these."""


@dataclass(frozen=True)
class Limit:
    """What is needed of something that there is only so much of.

    Example:
        Limit(PARTITION, needs=4.1e12, has=8.3e10, breaks_from=2.0e11, mend="partitions: 30000")
    """

    what: str
    needs: float
    has: float
    breaks_from: float
    """Size of the work, in bytes, at which it would be met."""
    mend: str
    """What to set or to take."""


@dataclass(frozen=True)
class Prospect:
    """What breaks, and whether it can be mended.

    Example:
        Prospect(broken=[Limit(...)], mended=CorpusWork(...), next=Limit(...))
    """

    broken: list[Limit]
    """In the order in which they are met when the one before is mended."""
    mended: Work
    """With as many partitions as are needed; the work itself where that is enough or nothing helps."""
    next: Limit
    """The nearest that is not broken once `broken` is mended."""


def prospect(work: Work, nodes: Nodes) -> Prospect:
    """What breaks first, then what would break next."""
    broken: list[Limit] = []
    chosen = False
    while True:
        limits = [limit for limit in limits_of(work, nodes, chosen) if limit.what not in {one.what for one in broken}]
        first = min(limits, key=lambda limit: (limit.needs <= limit.has, limit.breaks_from))
        if first.needs <= first.has:
            return Prospect(broken, work, first)
        if first.what in BY_PARTITIONS and not chosen:
            chosen = True
            work = with_enough_partitions(work, nodes)
            setting = "partitions" if isinstance(work, CorpusWork) else "shards"
            first = replace(first, mend=f"`{setting}: {work.partitions}`")
        broken.append(first)


def with_enough_partitions(work: Work, nodes: Nodes) -> Work:
    """With the fewest, in two digits and no fewer than it has, with which none of BY_PARTITIONS is met; with MOST_PARTITIONS
    where even these are too few. Shards: if possible a divisor or a multiple of the corpus's partitions, without a shuffle."""
    steps = [int(base * 10**power) for power in range(6) for base in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)]
    if isinstance(work, ShardsWork):
        whole = work.corpus_partitions
        unshuffled = [number for number in range(1, whole) if whole % number == 0]
        unshuffled += [times * whole for times in range(1, MOST_READS + 1) if times * whole <= MOST_PARTITIONS]
        steps = unshuffled + steps
    needs = {what: need for what, need in _needs_of(work, nodes).items() if what in BY_PARTITIONS}
    for partitions in (work.partitions, *(number for number in steps if number > work.partitions), MOST_PARTITIONS):
        more = replace(work, partitions=min(partitions, MOST_PARTITIONS))
        if all(needed(more, nodes) <= has for needed, has in needs.values()):
            return more
    return replace(work, partitions=MOST_PARTITIONS)


def limits_of(work: Work, nodes: Nodes, chosen: bool = False) -> list[Limit]:
    """All of them, each by itself.

    Args:
        chosen: the partitions are as many as are needed, at every size that is looked at.
    """
    mends = MENDS | SHARDS_MENDS if isinstance(work, ShardsWork) else MENDS
    return [
        Limit(what, needed(work, nodes), has, breaks_from(work, nodes, needed, has, chosen), mends[what])
        for what, (needed, has) in _needs_of(work, nodes).items()
    ]


def breaks_from(work: Work, nodes: Nodes, needed: Needs, has: float, chosen: bool) -> float:
    """Bytes of the same work from which on more is needed than there is; infinite where that is beyond LARGEST_BYTES."""

    def met(size: float) -> bool:
        scaled = work.scaled(size / work.size)
        if chosen:
            scaled = with_enough_partitions(replace(scaled, partitions=1), nodes)
        return needed(scaled, nodes) > has

    low, high = 1.0, LARGEST_BYTES
    if not met(high):
        return math.inf
    while high > 1.01 * low:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if met(middle) else (middle, high)
    return high


def _needs_of(work: Work, nodes: Nodes) -> dict[str, tuple[Needs, float]]:
    driver, node = nodes.task_bytes, nodes.task_bytes
    if isinstance(work, ShardsWork):
        shards: dict[str, tuple[Needs, float]] = {
            PARTITION: (_shard_bytes, node),
            TOKENS: (lambda work, _: TOKEN_BYTES * tokens_of(work) / work.partitions, TOKEN_BYTES * MOST_OF_INT32),
            INDEX: (lambda work, _: HELD["index_bytes_a_row"] * rows_of(work), driver),
        }  # fmt: skip
        if work.reads is None:
            shards[PIECES] = (lambda work, nodes: _pieces(shards_volumes(work, nodes).maps, work.partitions), driver)
            shards[SPILLED] = (
                lambda work, nodes: shards_volumes(work, nodes).spilled / nodes.cluster.nodes, nodes.assumed.disk_bytes,
            )  # fmt: skip
        return shards
    found: dict[str, tuple[Needs, float]] = {
        PARTITION: (_partition_bytes, node),
        STRINGS: (_string_bytes, MOST_OF_INT32),
        PIECES: (lambda work, nodes: _pieces(corpus_volumes(work, nodes).maps, work.partitions), driver),
        SPILLED: (lambda work, nodes: corpus_volumes(work, nodes).spilled / nodes.cluster.nodes, nodes.assumed.disk_bytes),
    }  # fmt: skip
    if work.near:
        found |= {KEYS: (_key_bytes, node), CLUSTER: (_cluster_bytes, node), CLUSTERS: (_clusters_bytes, node)}
    return found


def held_by_tasks(rows: float, peak: float, partitions: int, nodes: Nodes) -> float:
    """Bytes on a node while it works on its partitions of `rows` bytes together.

    A task holds all partitions that came to it, a copy of the one it works on, and what that takes (`peak`, over its rows). Ray
    lets a task run for each core, as far as twice what came to them fits into the memory that it counts.
    """
    partition = rows / partitions
    met = 1 / (1 - math.exp(-1))  # of a task that got any
    by_memory = TASK_SHARE * nodes.memory_bytes / (2 * met * partition)
    tasks = min(nodes.cluster.cores, by_memory, partitions / met / nodes.cluster.nodes)
    together = max(1.0, tasks) * (met + 1 + peak)
    return partition * max(together, fullest(partitions) + 1 + peak)


def _partition_bytes(work: CorpusWork, nodes: Nodes) -> float:
    peak = HELD["describe_peak"] if work.near else HELD["write_peak"]
    return held_by_tasks(corpus_volumes(work, nodes).rows, peak, work.partitions, nodes)


def _shard_bytes(work: ShardsWork, nodes: Nodes) -> float:
    if work.reads is not None:
        rows = shards_volumes(work, nodes).rows
        tasks = min(nodes.cluster.cores, max(1.0, work.partitions / nodes.cluster.nodes))
        return tasks * (rows / work.corpus_partitions + rows / work.partitions * (1 + HELD["pack_peak"]))
    return held_by_tasks(shards_volumes(work, nodes).rows, HELD["pack_peak"], work.partitions, nodes)


def _string_bytes(work: CorpusWork, nodes: Nodes) -> float:
    return SHA256_BYTES * corpus_volumes(work, nodes).documents / work.partitions


def _key_bytes(work: CorpusWork, nodes: Nodes) -> float:
    keys = BANDS * corpus_volumes(work, nodes).documents
    return held_by_tasks(keys * KEY_ROW_BYTES, HELD["pairs_bytes_a_key"] / KEY_ROW_BYTES, work.partitions, nodes)


def _cluster_bytes(work: CorpusWork, nodes: Nodes) -> float:
    """The id of every document, and all there is of those that met."""
    documents = corpus_volumes(work, nodes).documents
    return documents * (8 + nodes.assumed.paired_share * HELD["cluster_bytes_a_document"])


def _clusters_bytes(work: CorpusWork, nodes: Nodes) -> float:
    rows = corpus_volumes(work, nodes).documents * nodes.assumed.paired_share
    tasks = min(nodes.cluster.cores, max(1.0, work.partitions / nodes.cluster.nodes))
    return tasks * rows / cluster_parts(work.partitions) * HELD["clusters_bytes_a_row"]


def _pieces(maps: int, partitions: int) -> float:
    return maps * partitions * HELD["bytes_a_ref"]


MENDS = {
    PARTITION: "more partitions, or more memory a core",
    STRINGS: "more partitions",
    TOKENS: "more shards",
    KEYS: "more partitions, or more memory a core",
    PIECES: "RAY_DATA_SHUFFLE_INPUT_BATCH_BYTES above 1 GiB on all hosts (fewer tasks with more memory each; --assume "
    "shuffle_input_bytes=...), fewer partitions, or a head with more memory",
    SPILLED: "larger disks below Ray's temporary directory, or more nodes",
    CLUSTER: "more memory, or `near_duplicates: null`; no other setting helps",
    CLUSTERS: "more memory a core, up to 512 partitions, or `near_duplicates: null`",
    INDEX: "a larger `context`, several shards stages, or a driver with more memory",
}
UNSHUFFLED = "`shards`: as many as the corpus has partitions, or a divisor of them"
SHARDS_MENDS = {PIECES: UNSHUFFLED, SPILLED: UNSHUFFLED}
