"""Sources -> the corpus: cleaned, deduplicated, split documents with source and licence.

    input files --read, clean--> candidates --by id------> exact duplicates, contamination -> split -> files --> manifest
                                                              `-> near-duplicates, shared paragraphs (comparing.py) -'
                --as they were found, and when--> collected.parquet (jobs/corpus/provenance.py)

Bad rows travel with the good ones and end in quarantine/ with their reason: every row that was read is in one of the files.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import ray

from cluster.storage import Store
from configs.schema.corpus import CorpusStage
from jobs.corpus.canaries import require_recall
from jobs.corpus.comparing import build_compared
from jobs.corpus.contamination import Contamination, contamination_of
from jobs.corpus.inputs import InputFile, find_inputs
from jobs.corpus.partitions import Progress, Report, add_counts, run_partitions
from jobs.corpus.pii import audit_salt
from jobs.corpus.provenance import write_collected
from jobs.corpus.reading import NO_SALT, partition_reader, read_units
from jobs.corpus.schema import DOCUMENT_SCHEMA, DataError, read_table
from jobs.corpus.writing import partition_writer


@dataclass(frozen=True)
class CorpusSummary:
    """What a corpus holds and what was left out.

    Example:
        CorpusSummary(train=17700, heldout=361, conversations=5329, preferences=0, thumbs=0, characters=27_000_000,
                      documents_by_source={"pubmed": 18061}, documents_by_format={"pubmed": {"pubmed": 18061}},
                      documents_by_licence={"LicenseRef-NLM": 18061}, documents_by_encoding={"utf-8": 18061},
                      stripped={}, personal={"email": 812}, canary_recall={"email": 1.0},
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
    stripped: dict[str, int]
    """Characters that were taken out of texts that stay: page layout by kind, and repeated paragraphs."""
    personal: dict[str, int]
    """Placeholders that stand for personal data and secrets, by kind; in repeated paragraphs that were taken out, too."""
    canary_recall: dict[str, float]
    """Share of made-up values of each kind, planted beside the corpus, that the same rules found in this run."""
    quarantined: dict[str, int]
    """Rows by reason."""


def build_corpus(
    stage: CorpusStage, output: Store, progress: Progress, earlier: Mapping[str, Store] | None = None
) -> CorpusSummary:
    """Writes `train/`, `heldout/`, `quarantine/` (part-NNNNN.parquet each) and manifest.json below `output`.

    Ray must be connected. Relative paths of the sources start at the working directory. The bytes of all files depend on
    the inputs and the config only, but for collected.parquet, which says where and when the inputs were found, and the audit
    `personal/`, which is there with a salt only.

    Args:
        earlier: contents of the corpora that `near_duplicates` and `decontamination` name, by config key.

    Raises:
        UserError: canaries of personal data were not found (`pii`), or the salt of its audit is none.
        DataError: a source matches nothing, a host cannot see a file, or no document is left for training.
    """
    inputs = find_inputs(stage, Path.cwd())
    salt = audit_salt()
    recall = {**require_recall(stage.pii, salt or NO_SALT, stage.split_seed)}
    reports, near = _partitions(stage, inputs, output, progress, earlier or {}, salt)
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
        stripped=add_counts(reports, "stripped"),
        personal=add_counts(reports, "personal"),
        canary_recall=recall,
        quarantined=add_counts(reports, "quarantined"),
    )
    held_out_only = stage.heldout_fraction == 1 and summary.heldout > 0
    if summary.train == 0 and not held_out_only:
        raise DataError(
            f"no document is left for training ({summary.heldout} held out; in quarantine: {summary.quarantined or 'none'}). "
            f"See {output.path('quarantine')}, and check what took most of them: `cleaning.minimum_characters`, the sources' "
            "`format` and `quality`, `decontamination`, `near_duplicates.against`, or `heldout_fraction`."
        )
    files = {name: entry for report in reports for name, entry in report["files"].items()} | near.pop("files", {})
    write_collected(stage, inputs, output, datetime.now(UTC))
    manifest = {
        **asdict(summary),
        "partitions": stage.partitions,
        "files": files,
        "inputs": [_lasting(file) for file in inputs],
    }
    output.write_json("manifest.json", {**manifest, "near_duplicates": near} if near else manifest)
    return summary


def _partitions(
    stage: CorpusStage,
    inputs: list[InputFile],
    output: Store,
    progress: Progress,
    earlier: Mapping[str, Store],
    salt: bytes,
) -> tuple[list[Report], Report]:
    """Writes all partitions; their reports, and what was found of near-duplicates."""
    contamination = _contamination(stage, earlier)
    units = read_units(stage, inputs)
    read = partition_reader(stage, salt)
    if stage.near_duplicates is None and stage.repeated_paragraphs is None:
        write = partition_writer(stage, output, partial(_here, contamination))
        return run_partitions(units, read, write, stage.partitions, "corpus", progress), {}
    return build_compared(stage, units, read, output, progress, earlier, partial(_here, contamination))


def _contamination(stage: CorpusStage, earlier: Mapping[str, Store]) -> "ray.ObjectRef[Contamination] | None":
    """The n-grams of all evaluation sets, in shared memory once a node."""
    if stage.decontamination is None:
        return None
    corpora = {
        name: earlier[f"decontamination.against.{index}"] for index, name in enumerate(stage.decontamination.against)
    }
    return ray.put(contamination_of(corpora, stage.decontamination.overlap))


def _here(contamination: "ray.ObjectRef[Contamination] | None") -> Contamination | None:
    return None if contamination is None else ray.get(contamination)


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


def _by_source(counts: dict[str, int]) -> dict[str, dict[str, int]]:
    """{"talks messages": 7} -> {"talks": {"messages": 7}}; neither name has a space."""
    found: dict[str, dict[str, int]] = {}
    for name, count in counts.items():
        source, _, row_format = name.partition(" ")
        found.setdefault(source, {})[row_format] = count
    return found
