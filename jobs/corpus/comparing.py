"""A corpus that is compared with itself: what its partitions can only decide together.

    candidates --sort_partitions--> work/, near/ --clusters--> documents that stay --shared paragraphs--> files

Every pass is a function of the files of the one before, so a task that is done twice writes the same bytes twice.
"""

# pyarrow.compute makes its functions when it is imported:
# pyright: reportAttributeAccessIssue=false

from collections.abc import Callable, Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from cluster import kill_points
from cluster.storage import Store
from configs.schema.corpus import CorpusStage
from configs.schema.duplicates import NearDuplicates
from jobs.corpus.clusters import CLUSTERS, clusters_of
from jobs.corpus.contamination import Contamination
from jobs.corpus.members import IndexFile, describe, index_of
from jobs.corpus.near import find_clusters
from jobs.corpus.paragraphs import GONE_SCHEMA, PARAGRAPH_SCHEMA, paragraphs_of, repeated, without_repeated
from jobs.corpus.partitions import Progress, Read, Report, run_each, run_partitions
from jobs.corpus.schema import read_table, write_table
from jobs.corpus.writing import Sorted, keep, kept, sort_out, without_near_duplicates, write_partition

Left = Callable[[Report], Sorted]
"""What is left of one partition after the passes before."""
WriteLeft = Callable[[Report, Sorted], Report]


def build_compared(
    stage: CorpusStage,
    units: list[Report],
    read: Read,
    output: Store,
    progress: Progress,
    earlier: Mapping[str, Store],
    contamination: Callable[[], Contamination | None],
) -> tuple[list[Report], Report]:
    """Writes all partitions; their reports, and what was found of near-duplicates, with its `files`.

    Args:
        contamination: called in every task of the first pass.
    """

    def sort_partition(number: int, candidates: pa.Table) -> Report:
        partition = sort_out(candidates, contamination())
        report = {"number": number, "rows": candidates.num_rows, **keep(number, partition, output)}
        if stage.near_duplicates is not None:
            index = write_table(output, f"near/part-{number:05d}.parquet", describe(partition.documents))
            report["index"] = {"name": index.name, **index.entry}
        kill_points.reach("corpus_sorting")
        return report

    sorted_out = run_partitions(units, read, sort_partition, stage.partitions, "corpus", progress)
    kill_points.reach("corpus_sorted")
    found: Report = {}
    if stage.near_duplicates is not None:
        found = _compare(stage, stage.near_duplicates, sorted_out, output, progress, earlier)
        kill_points.reach("corpus_clustered")
    parts = found.pop("parts", None)

    def left(unit: Report) -> Sorted:
        partition = kept(unit, output)
        if parts is None:
            return partition
        return without_near_duplicates(partition, clusters_of(unit["number"], parts, output))

    def write(unit: Report, partition: Sorted) -> Report:
        report = write_partition(unit["number"], partition, stage, output)
        assert report["rows"]["written"] == unit["rows"], (unit, report["rows"])
        kill_points.reach("corpus_keeping")
        return report

    if stage.repeated_paragraphs is None:
        reports = run_each(sorted_out, lambda unit: write(unit, left(unit)), "corpus", progress)
    else:
        reports = _without_paragraphs(stage, sorted_out, left, write, output, progress)
    output.remove("work")
    return reports, found


def _compare(
    stage: CorpusStage,
    near: NearDuplicates,
    sorted_out: list[Report],
    output: Store,
    progress: Progress,
    earlier: Mapping[str, Store],
) -> Report:
    """What was found of near-duplicates, with the files below near/."""
    files = {unit["index"].pop("name"): unit["index"] for unit in sorted_out}
    index = [
        file
        for age, name in enumerate(near.against)
        for file in index_of(earlier[f"near_duplicates.against.{age}"], name, age)
    ]
    index += [IndexFile(output.root, name, entry["sha256"], len(near.against)) for name, entry in files.items()]
    found = find_clusters(index, near.similarity, output, stage.partitions, progress)
    clusters = found.pop("file")
    return {**found, "files": files | {CLUSTERS: clusters}}


def _without_paragraphs(
    stage: CorpusStage,
    sorted_out: list[Report],
    left: Left,
    write: WriteLeft,
    output: Store,
    progress: Progress,
) -> list[Report]:
    """Writes all partitions without the paragraphs that other documents keep: by key to find them, by document to take them."""
    settings, partitions = stage.repeated_paragraphs, stage.partitions
    assert settings is not None
    units = {unit["number"]: unit for unit in sorted_out}

    def read(unit: Report) -> Iterator[pa.Table]:
        yield paragraphs_of(left(unit).documents, settings.minimum_characters, partitions)
        yield _marks(unit["marks"], PARAGRAPH_SCHEMA)

    def find(partition: int, paragraphs: pa.Table) -> Report:
        gone = repeated(paragraphs.filter(pc.is_valid(paragraphs["key"])), partitions)
        file = write_table(output, f"work/repeated-{partition:05d}.parquet", gone)
        kill_points.reach("corpus_paragraphs")
        return {"name": file.name, "sha256": file.sha256}

    def read_gone(unit: Report) -> Iterator[pa.Table]:
        yield read_table(output, unit["name"], unit["sha256"])
        yield _marks(unit["marks"], GONE_SCHEMA)

    def take(partition: int, gone: pa.Table) -> Report:
        gone = gone.filter(pc.is_valid(gone["position"]))
        return write(units[partition], without_repeated(left(units[partition]), gone, stage))

    marked = _marked(sorted_out, [*units])
    found = run_partitions(marked, read, find, partitions, "repeated paragraphs", progress)
    return run_partitions(_marked(found, [*units]), read_gone, take, partitions, "corpus", progress)


def _marked(units: list[Report], partitions: list[int]) -> list[Report]:
    """Units of which the first brings a row for every partition: those without other rows are written too."""
    return [{**unit, "marks": [] if number else partitions} for number, unit in enumerate(units)]


def _marks(partitions: list[int], schema: pa.Schema) -> pa.Table:
    """Rows that say nothing but their partition."""
    columns = [
        pa.array(partitions, field.type) if field.name == "partition" else pa.nulls(len(partitions), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)
