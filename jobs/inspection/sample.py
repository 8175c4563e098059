"""The first rows of a run file's sources as a stage would see them, in this process: no Ray, nothing is written.

sources --read, clean, dedup, split--> documents --template, tokenizer--> SampledRow (whole, not packed)
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerBase

from cluster.storage import Store
from configs.schema.corpus import CorpusStage, ShardsStage
from jobs.corpus.candidates import CANDIDATE_SCHEMA
from jobs.corpus.examples import Renderer, preference_examples, thumb_examples
from jobs.corpus.inputs import find_inputs
from jobs.corpus.prompts import prompt_rows
from jobs.corpus.reading import partition_reader, read_units
from jobs.corpus.schema import DOCUMENT_SCHEMA, DataError
from jobs.corpus.segments import conversation_segments, text_segments
from jobs.corpus.shard_rows import KEPT
from jobs.corpus.shards import document_end_id
from jobs.corpus.split import is_heldout
from jobs.corpus.template import check_template, end_token_ids
from jobs.corpus.writing import sort_out
from jobs.models import load_tokenizer
from jobs.pipeline import PlannedStage
from jobs.preflight.stages import model_origin

WITHOUT_LIMIT = 2**30
"""A context in which nothing is too long, so that lengths can be measured."""


@dataclass(frozen=True)
class Documents:
    """The first documents of every source of a corpus.

    Example:
        Documents(table=<300 rows>, bad_rows=<2 rows>, verdicts={"pairs": {"preferences": 300}},
                  ignored={"pairs": {"id": 300}}, complete=True)
    """

    table: pa.Table
    """DOCUMENT_SCHEMA and `split`, in the order of sources and files."""
    bad_rows: pa.Table
    """QUARANTINE_SCHEMA"""
    verdicts: dict[str, dict[str, int]]
    """By source: documents by what their rows were read as."""
    ignored: dict[str, dict[str, int]]
    """By source: rows by the columns that hold something in them and are not read."""
    complete: bool
    """Whether these are all."""


@dataclass(frozen=True)
class SampledRow:
    """A document as it would be learnt: one segment, or one for each judged answer.

    Example:
        SampledRow(uri="pairs.jsonl#3", split="train", segments=[SampledSegment(...), SampledSegment(...)])
    """

    uri: str
    split: str
    segments: "list[SampledSegment]"


@dataclass(frozen=True)
class SampledSegment:
    """Tokens and weights before anything is cut off."""

    input_ids: list[int]
    weights: list[float]
    prompt_length: int = 0
    """Tokens that all answers share; 0 where nothing is judged."""
    level: int | None = None


@dataclass(frozen=True)
class Sample:
    """What a shards stage would make of a sample of its corpus."""

    stage: ShardsStage
    tokenizer: PreTrainedTokenizerBase
    documents: Documents
    rows: list[SampledRow]
    refused: pa.Table
    """QUARANTINE_SCHEMA: documents that the stage would set aside whatever its context."""
    left_out: int
    """Documents of another kind than the stage's rows."""


def sample_documents(stage: CorpusStage, rows: int) -> Documents:
    """At most `rows` rows of every source. Raises DataError as the stage itself would."""
    inputs = find_inputs(stage, Path.cwd())
    tables: list[pa.Table] = []
    complete = True
    for name in stage.sources:
        left = rows
        for table in _tables_of(stage, [unit for unit in read_units(stage, inputs) if unit["source"] == name]):
            complete &= table.num_rows <= left
            tables.append(table.slice(0, left))
            left -= tables[-1].num_rows
            if left <= 0:
                break
    candidates = pa.concat_tables([CANDIDATE_SCHEMA.empty_table(), *tables])
    found = candidates.filter(pc.field("reason").is_null())
    sorted_out = sort_out(candidates, None)
    kept = set(sorted_out.documents["uri"].to_pylist())
    survivors = found.filter(pa.array([uri in kept for uri in found["uri"].to_pylist()], pa.bool_()))
    split = [
        "heldout" if is_heldout(key, stage.heldout_fraction, stage.split_seed) else "train"
        for key in survivors["split_by"].to_pylist()
    ]
    verdicts: dict[str, Counter[str]] = {name: Counter() for name in stage.sources}
    ignored: dict[str, Counter[str]] = {name: Counter() for name in stage.sources}
    for row in found.select(["source", "format", "ignored"]).to_pylist():
        verdicts[row["source"]][row["format"]] += 1
        ignored[row["source"]].update(orjson.loads(row["ignored"] or "[]"))
    return Documents(
        survivors.select(DOCUMENT_SCHEMA.names).append_column("split", pa.array(split, pa.string())),
        sorted_out.aside.sort_by([(name, "ascending") for name in ("uri", "source", "reason", "detail")]),
        {name: dict(counts) for name, counts in verdicts.items()},
        {name: dict(counts) for name, counts in ignored.items()},
        complete,
    )


def _tables_of(stage: CorpusStage, units: list[dict[str, Any]]) -> Iterator[pa.Table]:
    read = partition_reader(stage)
    for unit in units:
        yield from read(unit)


def sample_rows(planned: PlannedStage, stages: dict[str, PlannedStage], store: Store, documents: Documents) -> Sample:
    """The documents through the tokenizer and template of a shards stage.

    Raises:
        DataError: its model is still at a hub, or it has no such token as `document_end`.
        TemplateError: the template cannot be trained with.
    """
    stage = planned.stage
    assert isinstance(stage, ShardsStage), planned.name
    origin = model_origin(planned, "model", stages, store)
    if origin is None:
        raise DataError(f"stages.{planned.name}.model: {stage.model} is still at its hub; its tokenizer is needed here")
    tokenizer = load_tokenizer(origin.directory, origin.trust_remote_code, origin.added_tokens)
    if origin.template is not None:
        tokenizer.chat_template = origin.template
    ends = end_token_ids(origin.directory, tokenizer)
    if stage.rows != "text":
        check_template(tokenizer, ends)
    wanted, _ = KEPT[stage.rows]
    table = documents.table.filter(wanted)
    whole = stage.model_copy(update={"context": WITHOUT_LIMIT})
    rows, refused = _rendered(whole, table, tokenizer, ends)
    return Sample(stage, tokenizer, documents, rows, refused, documents.table.num_rows - table.num_rows)


def _rendered(
    stage: ShardsStage, table: pa.Table, tokenizer: PreTrainedTokenizerBase, ends: frozenset[int]
) -> tuple[list[SampledRow], pa.Table]:
    places = {row["document_id"]: row for row in table.select(["document_id", "uri", "split"]).to_pylist()}
    if stage.rows in ("text", "messages"):
        segments = (
            text_segments(table, tokenizer, document_end_id(stage, tokenizer))
            if stage.rows == "text"
            else conversation_segments(table, tokenizer, stage, ends)
        )
        rows = [
            SampledRow(
                places[row["document_id"]]["uri"],
                places[row["document_id"]]["split"],
                [SampledSegment(row["input_ids"], [0.0, *row["weights"][1:]])],
            )
            for row in segments.table.to_pylist()
        ]
        return rows, segments.rejected
    if stage.rows == "prompts":
        prompts = prompt_rows(table, tokenizer, stage)
        rows = [
            SampledRow(
                places[row["document_id"]]["uri"],
                places[row["document_id"]]["split"],
                [SampledSegment(row["input_ids"], [0.0] * len(row["input_ids"]), len(row["input_ids"]))],
            )
            for row in prompts.table.to_pylist()
        ]
        return rows, prompts.rejected
    renderer = Renderer(tokenizer, ends, stage)
    examples = (
        preference_examples(table, renderer) if stage.rows == "preferences" else thumb_examples(table, table, renderer)
    )
    return [_sampled(row, places[row["document_ids"][0]]) for row in examples.table.to_pylist()], examples.rejected


def _sampled(row: dict[str, Any], place: dict[str, str]) -> SampledRow:
    segments, start = [], 0
    for length, prompt, level in zip(row["segment_lengths"], row["prompt_lengths"], row["levels"], strict=True):
        stop = start + length
        segments.append(SampledSegment(row["input_ids"][start:stop], row["weights"][start:stop], prompt, level))
        start = stop
    return SampledRow(place["uri"], place["split"], segments)
