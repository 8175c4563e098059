"""One call's share of the inputs, read and cleaned: documents and bad rows as rows of one table.

files of a unit --read_file--> Raw | Rejected --refine, redacted--> --candidate--> tables of CANDIDATE_SCHEMA
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import pyarrow as pa

from cluster import kill_points
from configs.schema.corpus import CorpusStage
from jobs.corpus.candidates import CANDIDATE_SCHEMA, candidate
from jobs.corpus.gate import freedom
from jobs.corpus.inputs import InputFile
from jobs.corpus.partitions import Read
from jobs.corpus.raw import Rejected
from jobs.corpus.readers import read_file
from jobs.corpus.refine import Refined, redacted, refine
from jobs.corpus.schema import DataError

ROWS_PER_TABLE = 2000
"""About 4 MB of abstracts: small beside Ray Data's 128 MiB blocks, large enough that Arrow's cost per table vanishes."""

NO_SALT = bytes(16)
"""For digests that nobody keeps."""


def read_units(stage: CorpusStage, inputs: list[InputFile]) -> list[dict[str, Any]]:
    """What one call reads: a file; or all files of a source with a limit, because "the first N" runs across them."""
    units: list[dict[str, Any]] = []
    for name, source in stage.sources.items():
        files = [{"location": file.location, "uri": file.uri} for file in inputs if file.source == name]
        groups = [[file] for file in files] if source.limit_documents is None else [files]
        units += [{"source": name, "files": group} for group in groups]
    return units


def partition_reader(stage: CorpusStage, salt: bytes = b"") -> Read:
    """Reads the candidates of one unit (`read_units`).

    Args:
        salt: of the audit of personal data; without one there is none.
    """

    def read(unit: dict[str, Any]) -> Iterator[pa.Table]:
        source = stage.sources[unit["source"]]
        columns = {
            "source": unit["source"],
            "licence": source.licence,
            "confidentiality": source.confidentiality,
        }
        rows = _unit_rows(stage, unit)
        while batch := list(islice(rows, ROWS_PER_TABLE)):
            files = [file for file, _ in batch]
            found = redacted([row for _, row in batch], stage.pii, salt or NO_SALT)
            table = [
                {**columns, "file": file, **candidate(row, stage.partitions, bool(salt))}
                for file, row in zip(files, found, strict=True)
            ]
            for row in table:
                row["precedence"] = _precedence(stage, row)
            yield pa.Table.from_pylist(table, schema=CANDIDATE_SCHEMA)
        kill_points.reach("corpus_reading")

    return read


def _precedence(stage: CorpusStage, row: Mapping[str, Any]) -> int:
    """Of documents that are alike the one with the smallest stays: the freest, then the one of the first source."""
    sources = list(stage.sources)
    return freedom(row["licence"], row["confidentiality"]) * len(sources) + sources.index(row["source"])


def _unit_rows(stage: CorpusStage, unit: dict[str, Any]) -> Iterator[tuple[str, Refined | Rejected]]:
    """Documents and bad rows with the uri of their file; ends at the source's limit, which counts what is kept here."""
    source = stage.sources[unit["source"]]
    kept = 0
    for file in unit["files"]:
        try:
            for row in read_file(file["location"], file["uri"], source):
                refined = refine(row, stage, unit["source"])
                yield file["uri"], refined
                kept += isinstance(refined, Refined)
                if kept == source.limit_documents:
                    return
        except FileNotFoundError as error:
            raise DataError(
                f"sources.{unit['source']}: {file['location']} cannot be seen by every host of the cluster. "
                "Put the source on S3 or on a disk that all hosts share."
            ) from error
