"""Documents that met --compared by their signatures--> clusters: who stays, and on which side of the split.

pairs, members --alike--> components --in the order of rank--> kept and dropped --> near/clusters.parquet, work/clusters-NNNNN
"""

# pyarrow.compute makes its functions when it is imported:
# pyright: reportAttributeAccessIssue=false

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components

from cluster import kill_points
from cluster.storage import Store
from jobs.corpus.dedup import first_of_equals
from jobs.corpus.members import INDEX, MEMBER_SCHEMA, SIGNATURE, IndexFile, matrix
from jobs.corpus.minhash import similarity
from jobs.corpus.partitions import Report
from jobs.corpus.schema import partitions_of, read_table, write_table

PAIR_SCHEMA = pa.schema([("a", pa.int64()), ("b", pa.int64())])
"""Ids of two documents that have an equal key, a < b."""
CLUSTER_SCHEMA = pa.schema(
    [
        ("document_id", pa.int64()),
        ("cluster_id", pa.int64()),
        ("kept", pa.bool_()),
        ("like", pa.string()),
        ("split_by", pa.string()),
    ]
)
"""Of documents that met others, ask what these ask, or are in an earlier corpus. `like`: the uri of the kept one that a dropped
one is like; `split_by`: of the first of all that are alike or ask the same, so that all of it is on one side of the split."""

CLUSTERS = "near/clusters.parquet"
CLUSTER_PARTS = 512
"""Most files that the clusters are cut into for the tasks of the partitions, each of which reads one."""
STAYING_COMPARED = 256
"""Of a component, the first that stay: those that met none of them are compared with these, so that of a thousand copies of
one form letter, of which each met two, not a hundred stay."""


@dataclass(frozen=True)
class Signatures:
    """Of the members, row by row."""

    text: np.ndarray
    """(N, HASHES)"""
    answers: np.ndarray
    """(conversations, HASHES)"""
    has_text: np.ndarray
    """(N,) bool"""
    answers_at: np.ndarray
    """(N,) the row of `answers`, -1 where there are none"""
    similar: float

    def alike(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Whether texts are alike, and of two conversations the answers too; bool, for every pair of rows."""
        found = self.has_text[left] & self.has_text[right]
        found &= similarity(self.text[left], self.text[right]) >= self.similar
        left, right = self.answers_at[left], self.answers_at[right]
        both = found & (left >= 0) & (right >= 0)
        found[both] = similarity(self.answers[left[both]], self.answers[right[both]]) >= self.similar
        return found


def cluster(files: list[IndexFile], met: dict[str, str], similar: float, output: Store, partitions: int) -> Report:
    """Compares the pairs, joins what is alike, and decides who stays.

    In one process: about 4 kB for each document in a pair, where clusters have four (tests/benchmarks/corpus_speed.py).

    Args:
        met: files of PAIR_SCHEMA below `output`, with their sha256.
    """
    tables = [PAIR_SCHEMA.empty_table(), *(read_table(output, name, sha256) for name, sha256 in sorted(met.items()))]
    both = np.unique(np.stack([pa.concat_tables(tables)[side].to_numpy() for side in ("a", "b")]), axis=1)
    newest = max(file.age for file in files)
    members = _members(files, np.unique(both), newest)
    ids = members["document_id"].to_numpy()
    left, right = np.searchsorted(ids, both)
    found = _signatures(members, similar)
    alike = found.alike(left, right)
    left, right = left[alike], right[alike]
    # Rank: older corpora first, then freedom and the order of sources, then the longer text, then the smaller id.
    by = [ids, -members["characters"].to_numpy(), members["precedence"].to_numpy(), members["age"].to_numpy()]
    rank = np.lexsort(by)
    clusters = _decide(members, _graph(left, right, len(ids)), found, rank, newest)
    written, parts = write_table(output, CLUSTERS, clusters), _write_parts(clusters, partitions, output)
    kill_points.reach("corpus_clustering")
    sizes = np.unique(clusters["cluster_id"].to_numpy(), return_counts=True)[1]
    return {
        "file": written.entry, "parts": parts, "algorithm": INDEX,
        "alike": len(left), "clusters": int((sizes > 1).sum()), "largest": int(sizes.max(initial=0)),
    }  # fmt: skip


def clusters_of(partition: int, parts: dict[str, str], output: Store) -> pa.Table:
    """CLUSTER_SCHEMA with all rows of this partition's documents."""
    name = _part_name(partition % CLUSTER_PARTS)
    return read_table(output, name, parts[name]) if name in parts else CLUSTER_SCHEMA.empty_table()


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


def _part_name(number: int) -> str:
    return f"work/clusters-{number:05d}.parquet"


def _members(files: list[IndexFile], paired: np.ndarray, newest: int) -> pa.Table:
    """One row for every id in a pair, in two corpora, or with the question of one of these, of the oldest corpus that has it.

    Sorted by id.
    """
    known = {file: file.read(["document_id", "split_by"]) for file in files}
    ids = {file: table["document_id"].to_numpy() for file, table in known.items()}
    own = np.concatenate([found for file, found in ids.items() if file.age == newest] or [paired[:0]])
    old = np.concatenate([found for file, found in ids.items() if file.age < newest] or [paired[:0]])
    wanted = np.union1d(paired, np.intersect1d(own, old))
    asked = pa.concat_tables([table.filter(pc.field("split_by").is_valid()) for table in known.values()])
    questions = asked["split_by"].filter(pa.array(np.isin(asked["document_id"].to_numpy(), wanted)))
    wanted = np.union1d(wanted, asked["document_id"].filter(pc.is_in(asked["split_by"], questions)).to_numpy())
    tables = []
    for file, found in ids.items():
        table = file.read(MEMBER_SCHEMA.names).filter(pa.array(np.isin(found, wanted)))
        tables.append(table.append_column("age", pa.array(np.full(table.num_rows, file.age, dtype=np.int32))))
    whole = pa.concat_tables(tables).sort_by([("document_id", "ascending"), ("age", "ascending")])
    sorted_ids = whole["document_id"].to_numpy()
    return whole.filter(pa.array(first_of_equals(sorted_ids) == np.arange(len(sorted_ids)))).combine_chunks()


def _signatures(members: pa.Table, similar: float) -> Signatures:
    has_text, has_answers = (
        pc.is_valid(members[name]).to_numpy(zero_copy_only=False).astype(bool) for name in ("signature", "answers")
    )
    answers = matrix(members["answers"].drop_null().cast(SIGNATURE))
    answers_at = np.where(has_answers, np.cumsum(has_answers) - 1, -1)
    return Signatures(matrix(members["signature"]), answers, has_text, answers_at, similar)


def _decide(members: pa.Table, graph: csr_matrix, found: Signatures, rank: np.ndarray, newest: int) -> pa.Table:
    """CLUSTER_SCHEMA. In the order of rank a document stays unless it is like one that stays; members of an earlier corpus stay.

    Not all but the first of a component go: a chain of small changes joins texts that have little in common.

    Args:
        graph: which rows are alike.
    """
    component = _components(graph).tolist()
    is_old = members["age"].to_numpy() < newest
    count = members.num_rows
    place_in_rank = np.empty(count, dtype=np.int64)
    place_in_rank[rank] = np.arange(count)
    stays, like = np.zeros(count, dtype=bool), np.arange(count)
    staying_in: defaultdict[int, list[int]] = defaultdict(list)
    for member in rank.tolist():
        neighbours = graph.indices[graph.indptr[member] : graph.indptr[member + 1]]
        staying = neighbours[stays[neighbours]]
        others = staying_in[component[member]]
        if not len(staying) and others:
            compared = np.array(others)
            staying = compared[found.alike(np.full(len(compared), member), compared)]
        stays[member] = is_old[member] or not len(staying)
        if not stays[member]:
            like[member] = staying[np.argmin(place_in_rank[staying])]
        elif len(others) < STAYING_COMPARED:
            others.append(member)
    split_by = pc.coalesce(members["split_by"], members["sha256"])
    side = _first(_components(graph + _asking_the_same(members)), rank)
    ids = members["document_id"].to_numpy()
    return pa.table(
        {
            # What an earlier corpus has stays there and goes here; a text that both have is like itself.
            "document_id": ids, "cluster_id": ids[_first(np.array(component, dtype=np.int64), rank)], "kept": stays & ~is_old,
            "like": members["uri"].take(pa.array(like)), "split_by": split_by.take(pa.array(side)),
        },
        schema=CLUSTER_SCHEMA,
    )  # fmt: skip


def _asking_the_same(members: pa.Table) -> csr_matrix:
    questions = members["split_by"].combine_chunks().dictionary_encode()
    asking = np.flatnonzero(pc.is_valid(members["split_by"]).to_numpy(zero_copy_only=False))
    number = questions.indices.to_numpy(zero_copy_only=False)[asking].astype(np.int64)
    order = np.argsort(number, kind="stable")
    return _graph(asking[order], asking[order[first_of_equals(number[order])]], members.num_rows)


def _graph(left: np.ndarray, right: np.ndarray, count: int) -> csr_matrix:
    """Both ways."""
    one_way = coo_matrix((np.ones(len(left), dtype=bool), (left, right)), shape=(count, count)).tocsr()
    return (one_way + one_way.T).tocsr()


def _components(graph: csr_matrix) -> np.ndarray:
    return connected_components(graph, directed=False)[1]


def _first(component: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Of every row, the first of its component."""
    first = np.full(component.max(initial=-1) + 1, -1)
    first[component[rank[::-1]]] = rank[::-1]
    return first[component]
