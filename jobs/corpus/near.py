"""Near-duplicates over a whole corpus, on Ray Data, without an actor that could forget.

    part of the corpus --describe (members.py)--> near/part-NNNNN                                  (one file a partition)
    near/ of this and of earlier corpora --band keys, hash shuffle--> equal keys meet --> work/pairs-NNNNN
    pairs --compared by their signatures--> components, kept and dropped (clusters.py) --> near/clusters.parquet (one task)
                                                                         --> work/clusters-NNNNN: those of some partitions

Every step is a function of its input files, so a task that is done twice writes the same bytes twice. Equal keys are joined as
a star and a chain (each document with the first and with the one before it), two pairs a document however many meet.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from cluster import kill_points
from cluster.storage import Store
from jobs.corpus.clusters import PAIR_SCHEMA, cluster
from jobs.corpus.dedup import first_of_equals
from jobs.corpus.members import IndexFile, matrix
from jobs.corpus.minhash import band_keys
from jobs.corpus.partitions import Progress, Report, run_partitions
from jobs.corpus.schema import write_table


def find_clusters(
    files: Sequence[IndexFile], similar: float, output: Store, partitions: int, progress: Progress
) -> Report:
    """Writes clusters.CLUSTERS below `output` and returns its entry in the manifest with counts, and `parts` for `clusters_of`.

    Args:
        files: the members; those of the last age are the corpus that is being made.
    """
    units = [{"root": file.root, "name": file.name, "sha256": file.sha256} for file in files]

    def read(unit: dict[str, Any]) -> Iterator[pa.Table]:
        members = IndexFile(**unit, age=0).read(["document_id", "signature"]).filter(pc.field("signature").is_valid())
        keys = band_keys(matrix(members["signature"]))
        table = pa.table({"key": keys.ravel(), "document_id": np.repeat(members["document_id"], keys.shape[1])})
        yield table.append_column("partition", pa.array((keys.ravel() % partitions).astype(np.int32)))

    def write(partition: int, rows: pa.Table) -> Report:
        found = pairs(rows["key"].to_numpy(), rows["document_id"].to_numpy())
        written = write_table(
            output, f"work/pairs-{partition:05d}.parquet", pa.table({"a": found[0], "b": found[1]}, schema=PAIR_SCHEMA)
        )
        kill_points.reach("corpus_pairing")
        return {"files": {written.name: written.sha256}, "counts": {"compared": len(found[0])}}

    reports = run_partitions(units, read, write, partitions, "near-duplicates", progress)
    names = {name: sha256 for report in reports for name, sha256 in report["files"].items()}
    found: Report = ray.get(_cluster_task.remote(list(files), names, similar, output, partitions))
    return {**found, "compared": sum(report["counts"]["compared"] for report in reports)}


def pairs(keys: np.ndarray, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct (a, b), a < b, of documents with an equal key: each with the first and with the one before."""
    order = np.lexsort((documents, keys))
    keys, documents = keys[order], documents[order]
    first = first_of_equals(keys)
    again = np.flatnonzero(first != np.arange(len(keys)))
    first = first[again]
    a = np.concatenate([documents[first], documents[again - 1]])
    b = np.concatenate([documents[again], documents[again]])
    found = np.unique(np.stack([a, b])[:, a < b], axis=1)
    return found[0], found[1]


@ray.remote(num_cpus=1)
def _cluster_task(
    files: list[IndexFile], met: dict[str, str], similar: float, output: Store, partitions: int
) -> Report:
    return cluster(files, met, similar, output, partitions)
