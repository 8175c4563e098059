"""Hours of preparing a corpus and its shards on nodes that need not be there.

    CorpusWork x Nodes: read --shuffle--> partitions --> (near-duplicates) --> [StepTime]
    ShardsWork x Nodes: read the corpus (--shuffle-->) tokens, packed --> [StepTime]

Pure functions. A step takes what its cores, its longest task, the network, the store or the disks need, whichever is longest; the
steps come one after the other.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from jobs.corpus.schema import SPLITS
from jobs.estimate.corpus_rates import (
    BANDS,
    CLUSTER_PARTS,
    HELD,
    KEY_ROW_BYTES,
    KINDS,
    MAX_READ_BLOCKS,
    PACKINGS,
    RATES,
)
from jobs.estimate.corpus_work import (
    CorpusWork,
    Nodes,
    ShardsWork,
    Volumes,
    corpus_volumes,
    rows_of,
    shards_volumes,
    volumes_of,
)

CORES, FEW, ONE, NETWORK, STORE, DISK = (
    "cores", "the longest task", "one core", "network", "store", "disks",
)  # fmt: skip


class StepTime(NamedTuple):
    """How long a step takes, and what keeps it from being faster."""

    name: str
    seconds: float
    by: str
    tasks: int
    core_s: float
    """Of all cores together."""


class Moved(NamedTuple):
    """Bytes of a step beside its computing, over all nodes."""

    network: float = 0
    store: float = 0
    disk: float = 0


NOTHING_MOVED = Moved()


def corpus_steps(work: CorpusWork, nodes: Nodes) -> list[StepTime]:
    volumes, text = corpus_volumes(work, nodes), work.text
    steps = list(_read_steps(work, nodes))
    steps += _shuffle("shuffle by document", volumes, work.partitions, nodes)

    def each_partition(name: str, seconds: float, moved: Moved = NOTHING_MOVED) -> StepTime:
        return step(name, seconds, work.partitions, nodes, moved, fullest(work.partitions))

    if work.contamination:
        steps.append(each_partition("decontamination", text / RATES["contamination"]))
    if not work.near:
        write = each_partition("exact duplicates, split, write", text / RATES["write"], Moved(store=volumes.stored))
        return [*steps, write]
    passing = Moved(store=2 * volumes.passing)
    steps.append(each_partition("exact duplicates, kept for later", text / RATES["keep"], passing))
    steps.append(each_partition("MinHash signatures", text / RATES["describe"]))
    steps += _cluster_steps(volumes.documents, work.partitions, nodes)
    read_clusters = work.partitions / cluster_parts(work.partitions) * clusters_file_bytes(volumes.documents, nodes)
    clusters = Moved(store=volumes.stored + read_clusters)
    seconds = text / RATES["write_kept"] + read_clusters / RATES["clusters_read"]
    tasks = min(work.partitions, MAX_READ_BLOCKS)
    return [*steps, step("near-duplicates out, split, write", seconds, tasks, nodes, clusters)]


def shards_steps(work: ShardsWork, nodes: Nodes) -> list[StepTime]:
    volumes = shards_volumes(work, nodes)
    if work.reads is None:
        times, tasks, longest = 1, work.partitions, fullest(work.partitions)
        readers, shuffle = (
            len(SPLITS) * work.corpus_partitions,
            _shuffle("shuffle by shard", volumes, work.partitions, nodes),
        )
    else:
        times, tasks, longest = work.reads, min(work.partitions, MAX_READ_BLOCKS), 1
        readers, shuffle = work.partitions, []
    read = Moved(store=times * work.text * HELD["stored_share"])
    told, rate = ("tokenise through the template", "conversations") if work.rendered else ("tokenise", "tokenise")
    return [
        step("read the corpus", times * work.text / RATES["shard_read"], min(readers, MAX_READ_BLOCKS), nodes, read),
        *shuffle,
        step(told, work.text / RATES[rate], tasks, nodes, longest=longest),
        step("pack, write", work.text / RATES["pack"], tasks, nodes, Moved(store=volumes.stored), longest),
        step("index of rows, by the driver", rows_of(work) / RATES["index"], 1, nodes),
    ]


def _read_steps(work: CorpusWork, nodes: Nodes) -> Iterator[StepTime]:
    """What one task does with a file, a part at a time."""
    tasks = min(sum(source.files for source in work.sources), MAX_READ_BLOCKS)
    hashed = sum(source.size for source in work.sources if source.local)
    if hashed:
        yield step("sha256 of local files, by the driver", hashed / RATES["hash"], 1, nodes)
    for kind in dict.fromkeys((source.kind, source.packing) for source in work.sources):
        files = [source for source in work.sources if (source.kind, source.packing) == kind]
        unpacked = sum(source.unpacked for source in files)
        seconds = unpacked / KINDS[kind[0]].bytes_per_s
        if kind[1]:
            seconds += unpacked / PACKINGS[kind[1]].bytes_per_s
        told = f"read {kind[0]}{'.' + kind[1] if kind[1] else ''}"
        yield step(told, seconds, tasks, nodes, Moved(store=sum(source.size for source in files)))
    yield step("clean, to rows", work.text * (1 / RATES["clean"] + 1 / RATES["table"]), tasks, nodes)
    for name in ("layout_paper", "layout_web"):
        text = sum(source.text for source in work.sources if source.layout == name.removeprefix("layout_"))
        if text:
            yield step(name.replace("_", ", "), text / RATES[name], tasks, nodes)
    judged = sum(source.text for source in work.sources if source.quality) / RATES["quality"]
    judged += sum(source.text for source in work.sources if source.languages) / RATES["language"]
    if judged:
        yield step("quality", judged, tasks, nodes)
    if work.pii != "none":
        yield step(f"personal data, {work.pii}", work.text / RATES[f"pii_{work.pii}"], tasks, nodes)


def _shuffle(name: str, volumes: Volumes, partitions: int, nodes: Nodes) -> list[StepTime]:
    count = nodes.cluster.nodes
    moved = Moved(network=volumes.shuffled * (count - 1) / count, disk=2 * volumes.spilled)
    return [
        step(f"{name}: cut and pack", volumes.rows / RATES["shuffle_map"], volumes.maps, nodes),
        step(
            f"{name}: fetch and unpack",
            volumes.rows / RATES["shuffle_reduce"],
            partitions,
            nodes,
            moved,
            fullest(partitions),
        ),
        step(f"{name}: its pieces, by the driver", volumes.maps * partitions / RATES["shard_refs"], 1, nodes),
    ]


def _cluster_steps(documents: float, partitions: int, nodes: Nodes) -> Iterator[StepTime]:
    """Who meets, in a second shuffle, and what of it is alike, in one task."""
    keys, paired = BANDS * documents, documents * nodes.assumed.paired_share
    volumes = volumes_of(documents, keys * KEY_ROW_BYTES, partitions, nodes)
    yield step("keys of the bands", documents / RATES["keys"], min(partitions, MAX_READ_BLOCKS), nodes)
    yield from _shuffle("shuffle by key", replace(volumes, shuffled=volumes.rows), partitions, nodes)
    yield step("pairs that meet", keys / RATES["pairs"], partitions, nodes, longest=fullest(partitions))
    yield step("clusters of near-duplicates, in one task", paired / RATES["cluster"], 1, nodes)


def cluster_parts(partitions: int) -> int:
    """Files that the clusters are cut into, of which the task of a partition reads one."""
    return min(partitions, CLUSTER_PARTS)


def clusters_file_bytes(documents: float, nodes: Nodes) -> float:
    return documents * nodes.assumed.paired_share * HELD["clusters_file_bytes_a_row"]


def step(
    name: str,
    core_s: float,
    tasks: int,
    nodes: Nodes,
    moved: Moved = NOTHING_MOVED,
    longest: float = 1,
) -> StepTime:
    """All cores together, or the longest task alone.

    Args:
        longest: of the tasks, over a task on the mean.
    """
    assumed, count = nodes.assumed, nodes.cluster.nodes
    core_s /= assumed.core_speed * assumed.busy_share
    needs = {
        CORES: core_s / nodes.cores,
        ONE if tasks == 1 else FEW: longest * core_s / tasks,
        NETWORK: moved.network / (count * assumed.network_bytes_per_s),
        STORE: moved.store / (count * assumed.store_bytes_per_s),
        DISK: moved.disk / (count * assumed.disk_bytes_per_s),
    }
    by = max(needs, key=lambda name: needs[name])
    return StepTime(name, needs[by], by, tasks, core_s)


def fullest(partitions: int) -> int:
    """Partitions that come together in the fullest task of a shuffle.

    Ray Data hashes the partition's number once more, so tasks get as many as balls fall into bins: a third of them none,
    one on the mean. The largest number to be expected is the first that less than one bin exceeds (Poisson, mean 1).
    """
    most, one, beyond = 0, math.exp(-1), 1 - math.exp(-1)
    while partitions * beyond >= 1:
        most += 1
        one /= most
        beyond -= one
    return max(1, most)
