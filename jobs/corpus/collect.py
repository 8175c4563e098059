"""Sources -> the corpus: cleaned, deduplicated, split documents with source and licence.

    input files --read, clean--> candidates --by hash(id)--> dedup -> split -> train/, heldout/, quarantine/ --> manifest
                --as they were found, and when--> collected.parquet (jobs/corpus/provenance.py)

Bad rows travel with the good ones and end in quarantine/ with their reason: every row that was read is in one of the files.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.storage import Store
from configs.schema.corpus import CorpusStage
from jobs.corpus.candidates import CANDIDATE_SCHEMA, candidate
from jobs.corpus.clean import clean_document
from jobs.corpus.dedup import drop_duplicates
from jobs.corpus.inputs import InputFile, find_inputs
from jobs.corpus.partitions import Progress, Read, Report, Write, add_counts, run_partitions
from jobs.corpus.provenance import write_collected
from jobs.corpus.raw import Raw, Rejected, RowError
from jobs.corpus.readers import read_file
from jobs.corpus.schema import (
    DOCUMENT_SCHEMA,
    QUARANTINE_SCHEMA,
    DataError,
    read_table,
    write_table,
)
from jobs.corpus.split import is_heldout

SPLITS = ("train", "heldout")

ROWS_PER_TABLE = 2000
"""About 4 MB of abstracts: small beside Ray Data's 128 MiB blocks, large enough that Arrow's cost per table vanishes."""


@dataclass(frozen=True)
class CorpusSummary:
    """What a corpus holds and what was left out.

    Example:
        CorpusSummary(train=17700, heldout=361, conversations=5329, preferences=0, thumbs=0, characters=27_000_000,
                      documents_by_source={"pubmed": 18061}, documents_by_format={"pubmed": {"pubmed": 18061}},
                      documents_by_licence={"LicenseRef-NLM": 18061}, documents_by_encoding={"utf-8": 18061},
                      quarantined={"duplicate": 3, "too_short": 290})
    """

    train: int
    heldout: int
    conversations: int
    """Documents of both splits that have messages."""
    preferences: int
    """Documents of both splits with an order of answers."""
    thumbs: int
    characters: int
    documents_by_source: dict[str, int]
    documents_by_format: dict[str, dict[str, int]]
    """By source, then by what its rows were read as (jobs/corpus/formats.py)."""
    documents_by_licence: dict[str, int]
    documents_by_encoding: dict[str, int]
    """As what their files were decoded; what is not utf-8 was said by a byte order mark, or guessed."""
    quarantined: dict[str, int]
    """Rows by reason."""


def build_corpus(stage: CorpusStage, output: Store, progress: Progress) -> CorpusSummary:
    """Writes `train/`, `heldout/`, `quarantine/` (part-NNNNN.parquet each) and manifest.json below `output`.

    Ray must be connected. Relative paths of the sources start at the working directory. The bytes of all files depend on
    the inputs and the config only, but for collected.parquet, which says where and when the inputs were found.

    Raises:
        DataError: a source matches nothing, a host cannot see a file, or no document is left for training.
    """
    inputs = find_inputs(stage, Path.cwd())
    reports = run_partitions(
        read_units(stage, inputs),
        partition_reader(stage),
        partition_writer(stage, output),
        stage.partitions,
        "corpus",
        progress,
    )
    splits = add_counts(reports, "documents")
    counts = add_counts(reports, "counts")
    summary = CorpusSummary(
        train=splits.get("train", 0),
        heldout=splits.get("heldout", 0),
        conversations=counts["conversations"],
        preferences=counts["preferences"],
        thumbs=counts["thumbs"],
        characters=counts["characters"],
        documents_by_source=add_counts(reports, "sources"),
        documents_by_format=_by_source(add_counts(reports, "formats")),
        documents_by_licence=add_counts(reports, "licences"),
        documents_by_encoding=add_counts(reports, "encodings"),
        quarantined=add_counts(reports, "quarantined"),
    )
    held_out_only = stage.heldout_fraction == 1 and summary.heldout > 0
    if summary.train == 0 and not held_out_only:
        raise DataError(
            f"no document is left for training ({summary.heldout} held out; in quarantine: {summary.quarantined or 'none'}). "
            f"See {output.path('quarantine')}, and check `cleaning.minimum_characters`, `heldout_fraction` and the sources' "
            "`format`."
        )
    files = {name: entry for report in reports for name, entry in report["files"].items()}
    write_collected(stage, inputs, output, datetime.now(UTC))
    output.write_json(
        "manifest.json", {**asdict(summary), "files": files, "inputs": [_lasting(file) for file in inputs]}
    )
    return summary


def read_corpus_split(corpus: Store, split: Literal["train", "heldout"]) -> pa.Table:
    """All documents of a split, sorted by document_id; columns of DOCUMENT_SCHEMA. Raises DataError at damage."""
    files = corpus.read_json("manifest.json")["files"]
    tables = [
        read_table(corpus, name, entry["sha256"]) for name, entry in files.items() if name.startswith(f"{split}/")
    ]
    if not tables:
        return DOCUMENT_SCHEMA.empty_table()
    return pa.concat_tables(tables).sort_by([("document_id", "ascending"), ("sha256", "ascending")])


def _lasting(file: InputFile) -> dict[str, Any]:
    """What of an input stays the same wherever and whenever it is read."""
    return {
        "uri": file.uri,
        "size": file.size,
        "fingerprint": file.fingerprint,
        "source": file.source,
        "licence": file.licence,
    }


def read_units(stage: CorpusStage, inputs: list[InputFile]) -> list[dict[str, Any]]:
    """What one call reads: a file; or all files of a source with a limit, because "the first N" runs across them."""
    units: list[dict[str, Any]] = []
    for name, source in stage.sources.items():
        files = [{"location": file.location, "uri": file.uri} for file in inputs if file.source == name]
        groups = [[file] for file in files] if source.limit_documents is None else [files]
        units += [{"source": name, "files": group} for group in groups]
    return units


def partition_reader(stage: CorpusStage) -> Read:
    """Reads the candidates of one unit (`read_units`)."""

    def read(unit: dict[str, Any]) -> Iterator[pa.Table]:
        source = stage.sources[unit["source"]]
        columns = {
            "source": unit["source"],
            "source_order": list(stage.sources).index(unit["source"]),
            "licence": source.licence,
            "confidentiality": source.confidentiality,
        }
        rows: list[dict[str, Any]] = []
        for file, row in _unit_rows(stage, unit):
            rows.append({**columns, "file": file, **candidate(row, stage.partitions)})
            if len(rows) == ROWS_PER_TABLE:
                yield pa.Table.from_pylist(rows, schema=CANDIDATE_SCHEMA)
                rows = []
        if rows:
            yield pa.Table.from_pylist(rows, schema=CANDIDATE_SCHEMA)

    return read


def _unit_rows(stage: CorpusStage, unit: dict[str, Any]) -> Iterator[tuple[str, Raw | Rejected]]:
    """Cleaned documents and bad rows with the uri of their file; ends at the source's limit, which counts what is kept here."""
    source = stage.sources[unit["source"]]
    kept = 0
    for file in unit["files"]:
        try:
            for row in read_file(file["location"], file["uri"], source):
                cleaned = _cleaned(row, stage)
                yield file["uri"], cleaned
                kept += isinstance(cleaned, Raw)
                if kept == source.limit_documents:
                    return
        except FileNotFoundError as error:
            raise DataError(
                f"sources.{unit['source']}: {file['location']} cannot be seen by every host of the cluster. "
                "Put the source on S3 or on a disk that all hosts share."
            ) from error


def _cleaned(row: Raw | Rejected, stage: CorpusStage) -> Raw | Rejected:
    if isinstance(row, Rejected):
        return row
    try:
        return clean_document(row, stage.cleaning)
    except RowError as error:
        return Rejected(row.uri, error.reason, error.detail)


def partition_writer(stage: CorpusStage, output: Store) -> Write:
    """Writes the files of one partition from its candidates, in whatever order they arrive."""

    def write(partition: int, candidates: pa.Table) -> Report:
        is_document = pc.field("reason").is_null()
        deduplicated = drop_duplicates(candidates.filter(is_document))
        survivors = deduplicated.survivors.sort_by([("document_id", "ascending"), ("sha256", "ascending")])
        heldout = np.array(
            [is_heldout(key.as_py(), stage.heldout_fraction, stage.split_seed) for key in survivors["split_by"]],
            dtype=bool,
        )
        tables = {
            "train": survivors.filter(pa.array(~heldout)).select(DOCUMENT_SCHEMA.names),
            "heldout": survivors.filter(pa.array(heldout)).select(DOCUMENT_SCHEMA.names),
            "quarantine": quarantine(candidates.filter(~is_document), deduplicated.duplicates),
        }
        written = [
            write_table(output, f"{name}/part-{partition:05d}.parquet", table)
            for name, table in tables.items()
            if table.num_rows
        ]
        judged_as = Counter(survivors["judged_as"].to_pylist())
        rows = sum(file.rows for file in written)
        assert rows == candidates.num_rows, f"partition {partition}: {candidates.num_rows} rows in, {rows} out"
        return {
            "files": {file.name: {"sha256": file.sha256, "size": file.size, "rows": file.rows} for file in written},
            "documents": {split: tables[split].num_rows for split in SPLITS},
            "counts": {
                "conversations": survivors.num_rows - survivors["messages"].null_count,
                "preferences": judged_as["preferences"],
                "thumbs": judged_as["thumbs"],
                "characters": sum(len(text.as_py()) for text in survivors["text"]),
            },
            "formats": Counter(
                map(" ".join, zip(survivors["source"].to_pylist(), survivors["format"].to_pylist(), strict=True))
            ),
            "sources": Counter(survivors["source"].to_pylist()),
            "licences": Counter(survivors["licence"].to_pylist()),
            "encodings": Counter(survivors["encoding"].to_pylist()),
            "quarantined": Counter(tables["quarantine"]["reason"].to_pylist()),
        }

    return write


def _by_source(counts: dict[str, int]) -> dict[str, dict[str, int]]:
    """{"talks messages": 7} -> {"talks": {"messages": 7}}; neither name has a space."""
    found: dict[str, dict[str, int]] = {}
    for name, count in counts.items():
        source, _, row_format = name.partition(" ")
        found.setdefault(source, {})[row_format] = count
    return found


def quarantine(bad_rows: pa.Table, duplicates: pa.Table) -> pa.Table:
    """Bad rows and duplicates (with the survivor's uri as detail), sorted by uri, reason and detail."""
    repeated = pa.table(
        {
            "uri": duplicates["uri"],
            "source": duplicates["source"],
            "reason": pa.array(["duplicate"] * duplicates.num_rows, pa.string()),
            "detail": duplicates["survivor_uri"],
        },
        schema=QUARANTINE_SCHEMA,
    )
    rows = pa.concat_tables([bad_rows.select(QUARANTINE_SCHEMA.names), repeated])
    return rows.sort_by([(name, "ascending") for name in ("uri", "source", "reason", "detail")])
