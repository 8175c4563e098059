"""Near-duplicates over a whole corpus, on Ray Data, without an actor that could forget.

    part of the corpus --describe--> near/part-NNNNN: id, rank among its like, signature       (one file a partition)
    near/ of this and of earlier corpora --band keys, hash shuffle--> equal keys meet --> work/pairs-NNNNN
    pairs --compared by their signatures--> components, kept and dropped --> near/clusters.parquet          (one task)
                                                                         --> work/clusters-NNNNN: those of some partitions

Every step is a function of its input files, so a task that is done twice writes the same bytes twice. Equal keys are joined as
a star and a chain (each document with the first and with the one before it), two pairs a document however many meet.
"""

# pyarrow.compute makes its functions when it is imported:
# pyright: reportAttributeAccessIssue=false

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from cluster import kill_points
from cluster.storage import Store
from jobs.corpus.dedup import first_of_equals
from jobs.corpus.minhash import ALGORITHM, HASHES, band_keys, signatures, similarity
from jobs.corpus.partitions import Progress, Report, run_partitions
from jobs.corpus.schema import DataError, partitions_of, read_table, write_table

MEMBER_SCHEMA = pa.schema(
    [
        ("document_id", pa.int64()),
        ("sha256", pa.string()),
        ("precedence", pa.int32()),
        ("characters", pa.int64()),
        ("uri", pa.string()),
        ("signature", pa.binary(4 * HASHES)),
    ]
)
CLUSTER_SCHEMA = pa.schema(
    [
        ("document_id", pa.int64()),
        ("cluster_id", pa.int64()),
        ("kept", pa.bool_()),
        ("like", pa.string()),
        ("split_by", pa.string()),
    ]
)
"""Of documents that are like others or are in an earlier corpus. `like`: the uri of the kept one that a dropped one is like;
`split_by`: the sha256 of the first of the cluster, so that all of it is on one side of the split."""

PAIR_SCHEMA = pa.schema([("a", pa.int64()), ("b", pa.int64())])
"""Ids of two documents that have an equal key, a < b."""

CLUSTERS = "near/clusters.parquet"
CLUSTER_PARTS = 512
"""Most files that the clusters are cut into for the tasks of the partitions, each of which reads one."""


@dataclass(frozen=True)
class IndexFile:
    """One file of members, of this corpus (age 0 is the oldest) or of an earlier one."""

    root: str
    name: str
    sha256: str
    age: int

    def read(self, columns: list[str]) -> pa.Table:
        return read_table(Store(self.root), self.name, self.sha256, columns)


def describe(documents: pa.Table) -> pa.Table:
    """MEMBER_SCHEMA of the documents that are compared: all but judged answers, whose prompts are alike on purpose."""
    compared = documents.filter(pc.is_null(documents["judgement"])).sort_by("document_id")
    rows = signatures(compared["text"])
    return pa.table(
        {
            "document_id": compared["document_id"], "sha256": compared["sha256"], "precedence": compared["precedence"],
            "characters": pc.utf8_length(compared["text"]).cast(pa.int64()), "uri": compared["uri"],
            "signature": pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(4 * HASHES), len(rows), [None, pa.py_buffer(np.ascontiguousarray(rows).tobytes())]
            ),
        },
        schema=MEMBER_SCHEMA,
    )  # fmt: skip


def index_of(corpus: Store, name: str, age: int) -> list[IndexFile]:
    """The members of an earlier corpus. Raises DataError where it has none that can be compared with."""
    manifest = corpus.read_json("manifest.json")
    if manifest.get("near_duplicates", {}).get("algorithm") != ALGORITHM:
        raise DataError(
            f"near_duplicates.against: {name} has no signatures of {ALGORITHM}; make it again with `near_duplicates: {{}}`"
        )
    files = manifest["files"]
    return [
        IndexFile(corpus.root, file, entry["sha256"], age)
        for file, entry in files.items()
        if file.startswith("near/part-")
    ]


def find_clusters(
    files: Sequence[IndexFile], similar: float, output: Store, partitions: int, progress: Progress
) -> Report:
    """Writes CLUSTERS below `output` and returns its entry in the manifest with counts, and `parts`: what `clusters_of` reads.

    Args:
        files: the members; those of the last age are the corpus that is being made.
    """
    units = [{"root": file.root, "name": file.name, "sha256": file.sha256} for file in files]

    def read(unit: dict[str, Any]) -> Iterator[pa.Table]:
        members = IndexFile(**unit, age=0).read(["document_id", "signature"])
        keys = band_keys(_matrix(members["signature"]))
        table = pa.table({"key": keys.ravel(), "document_id": np.repeat(members["document_id"], keys.shape[1])})
        yield table.append_column("partition", pa.array((keys.ravel() % partitions).astype(np.int32)))

    def write(partition: int, rows: pa.Table) -> Report:
        pairs = _pairs(rows["key"].to_numpy(), rows["document_id"].to_numpy())
        written = write_table(
            output, f"work/pairs-{partition:05d}.parquet", pa.table({"a": pairs[0], "b": pairs[1]}, schema=PAIR_SCHEMA)
        )
        kill_points.reach("corpus_pairing")
        return {"files": {written.name: written.sha256}, "counts": {"compared": len(pairs[0])}}

    reports = run_partitions(units, read, write, partitions, "near-duplicates", progress)
    names = {name: sha256 for report in reports for name, sha256 in report["files"].items()}
    found: Report = ray.get(_cluster_task.remote(list(files), names, similar, output, partitions))
    return {**found, "compared": sum(report["counts"]["compared"] for report in reports)}


def _pairs(keys: np.ndarray, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct (a, b), a < b, of documents with an equal key: each with the first and with the one before."""
    order = np.lexsort((documents, keys))
    keys, documents = keys[order], documents[order]
    first = first_of_equals(keys)
    again = np.flatnonzero(first != np.arange(len(keys)))
    first = first[again]
    a = np.concatenate([documents[first], documents[again - 1]])
    b = np.concatenate([documents[again], documents[again]])
    pairs = np.unique(np.stack([a, b])[:, a < b], axis=1)
    return pairs[0], pairs[1]


@ray.remote(num_cpus=1)
def _cluster_task(
    files: list[IndexFile], pairs: dict[str, str], similar: float, output: Store, partitions: int
) -> Report:
    return cluster(files, pairs, similar, output, partitions)


def cluster(files: list[IndexFile], pairs: dict[str, str], similar: float, output: Store, partitions: int) -> Report:
    """Compares the pairs, joins what is alike, and decides who stays.

    In one process: about 4 kB for each document in a pair, where clusters have four (tests/benchmarks/corpus_speed.py).
    """
    tables = [PAIR_SCHEMA.empty_table(), *(read_table(output, name, sha256) for name, sha256 in sorted(pairs.items()))]
    both = np.unique(np.stack([pa.concat_tables(tables)[side].to_numpy() for side in ("a", "b")]), axis=1)
    newest = max(file.age for file in files)
    members = _members(files, np.unique(both), newest)
    ids = members["document_id"].to_numpy()
    place = np.searchsorted(ids, both)
    matrix = _matrix(members["signature"])
    alike = similarity(matrix[place[0]], matrix[place[1]]) >= similar
    left, right = place[0][alike], place[1][alike]
    # Rank: older corpora first, then freedom and the order of sources, then the longer text, then the smaller id.
    by = [ids, -members["characters"].to_numpy(), members["precedence"].to_numpy(), members["age"].to_numpy()]
    rank = np.lexsort(by)
    clusters = _decide(members, left, right, rank, newest)
    written, parts = write_table(output, CLUSTERS, clusters), _write_parts(clusters, partitions, output)
    kill_points.reach("corpus_clustering")
    sizes = np.unique(clusters["cluster_id"].to_numpy(), return_counts=True)[1]
    return {
        "file": written.entry, "parts": parts, "algorithm": ALGORITHM,
        "alike": len(left), "clusters": int((sizes > 1).sum()), "largest": int(sizes.max(initial=0)),
    }  # fmt: skip


def _write_parts(clusters: pa.Table, partitions: int, output: Store) -> dict[str, str]:
    """sha256 of each part by its name; CLUSTER_SCHEMA of the documents of every CLUSTER_PARTS-th partition."""
    part = partitions_of(clusters["document_id"].to_numpy(), partitions) % CLUSTER_PARTS
    order = np.argsort(part, kind="stable")
    ordered, numbers = clusters.take(pa.array(order)), np.unique(part)
    bounds = np.searchsorted(part[order], [*numbers, CLUSTER_PARTS]).tolist()
    parts: dict[str, str] = {}
    for number, (start, stop) in zip(numbers.tolist(), pairwise(bounds), strict=True):
        file = write_table(output, _part_name(number), ordered.slice(start, stop - start))
        parts[file.name] = file.sha256
    return parts


def clusters_of(partition: int, parts: dict[str, str], output: Store) -> pa.Table:
    """CLUSTER_SCHEMA with all rows of this partition's documents."""
    name = _part_name(partition % CLUSTER_PARTS)
    return read_table(output, name, parts[name]) if name in parts else CLUSTER_SCHEMA.empty_table()


def _part_name(number: int) -> str:
    return f"work/clusters-{number:05d}.parquet"


def _members(files: list[IndexFile], paired: np.ndarray, newest: int) -> pa.Table:
    """One row for every id in a pair or in two corpora, of the oldest corpus that has it; sorted by id."""
    ids = {file: file.read(["document_id"])["document_id"].to_numpy() for file in files}
    own = np.concatenate([found for file, found in ids.items() if file.age == newest] or [paired[:0]])
    old = np.concatenate([found for file, found in ids.items() if file.age < newest] or [paired[:0]])
    wanted = np.union1d(paired, np.intersect1d(own, old))
    tables = []
    for file, found in ids.items():
        table = file.read(MEMBER_SCHEMA.names).filter(pa.array(np.isin(found, wanted)))
        tables.append(table.append_column("age", pa.array(np.full(table.num_rows, file.age, dtype=np.int32))))
    whole = pa.concat_tables(tables).sort_by([("document_id", "ascending"), ("age", "ascending")])
    sorted_ids = whole["document_id"].to_numpy()
    oldest = np.ones(len(sorted_ids), dtype=bool)
    oldest[1:] = sorted_ids[1:] != sorted_ids[:-1]
    return whole.filter(pa.array(oldest)).combine_chunks()


def _decide(members: pa.Table, left: np.ndarray, right: np.ndarray, rank: np.ndarray, newest: int) -> pa.Table:
    """CLUSTER_SCHEMA. In the order of rank a document stays unless it is like one that stays; members of an earlier corpus stay.

    Not all but the first of a component go: a chain of small changes joins texts that have little in common.
    """
    count = members.num_rows
    graph = coo_matrix((np.ones(len(left), dtype=bool), (left, right)), shape=(count, count)).tocsr()
    graph = (graph + graph.T).tocsr()
    _, component = connected_components(graph, directed=False)
    is_old = members["age"].to_numpy() < newest
    place_in_rank = np.empty(count, dtype=np.int64)
    place_in_rank[rank] = np.arange(count)
    stays, like = np.zeros(count, dtype=bool), np.arange(count)
    for member in rank.tolist():
        neighbours = graph.indices[graph.indptr[member] : graph.indptr[member + 1]]
        staying = neighbours[stays[neighbours]]
        stays[member] = is_old[member] or not len(staying)
        if not stays[member]:
            like[member] = staying[np.argmin(place_in_rank[staying])]
    first = np.full(component.max(initial=-1) + 1, -1)
    first[component[rank[::-1]]] = rank[::-1]
    ids, uris, sha256 = members["document_id"].to_numpy(), members["uri"], members["sha256"]
    return pa.table(
        {
            # What an earlier corpus has stays there and goes here; a text that both have is like itself.
            "document_id": ids, "cluster_id": ids[first[component]], "kept": stays & ~is_old,
            "like": uris.take(pa.array(like)), "split_by": sha256.take(pa.array(first[component])),
        },
        schema=CLUSTER_SCHEMA,
    )  # fmt: skip


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    """(N, HASHES) uint32 of a column of signatures."""
    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        whole = (
            pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.array([], MEMBER_SCHEMA.field("signature").type)
        )
    data = whole.buffers()[1]
    rows = np.frombuffer(data, dtype=np.uint32) if data is not None else np.empty(0, dtype=np.uint32)
    return rows.reshape(-1, HASHES)[whole.offset : whole.offset + len(whole)]
