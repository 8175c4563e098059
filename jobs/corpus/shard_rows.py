"""Which documents a kind of rows is made of, and how those of one shard become its rows.

documents --kind--> segments, packed (held-out ones by source) | whole examples of judged answers | prompts
rows --index_of--> what each costs and weighs, and where it is from
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerBase

from cluster.storage import Store
from configs.schema.corpus import ShardsStage
from jobs.corpus.examples import Renderer, preference_examples, thumb_examples
from jobs.corpus.pack import pack
from jobs.corpus.prompts import prompt_rows
from jobs.corpus.schema import EXAMPLE_SCHEMA, PROMPT_SCHEMA, ROW_SCHEMA, DataError
from jobs.corpus.segments import conversation_segments, text_segments, without_lone_tokens
from jobs.records import ExampleRow

KEPT = {
    "text": (pc.field("judged_as").is_null(), ["messages", "judgement"]),
    "messages": (pc.field("messages").is_valid(), ["text", "judgement"]),
    "preferences": (pc.field("judged_as") == "preferences", ["text", "messages"]),
    "thumbs": (pc.field("judged_as").is_valid(), ["text", "messages"]),
    "prompts": (pc.field("messages").is_valid(), ["text", "judgement"]),
}
"""By kind of rows: which documents they are made of, and what of these is not needed."""


def check_kind(stage: ShardsStage, corpus: Store, manifest: dict[str, Any]) -> None:
    """Raises DataError where the corpus has no document of the kind that is asked for."""
    conversations = (manifest["conversations"], "has messages", "conversations or instructions")
    known = {
        "messages": conversations,
        "prompts": conversations,
        "preferences": (manifest["preferences"], "has answers in an order", "chosen and rejected or ranked answers"),
        "thumbs": (
            manifest["thumbs"] + manifest["preferences"],
            "has judged answers",
            "thumbs (`completion` and `label`)",
        ),
    }
    if stage.rows in known and known[stage.rows][0] == 0:
        _, has, sources = known[stage.rows]
        formats = {name: list(counts) for name, counts in manifest["documents_by_format"].items()}
        raise DataError(
            f"rows: {stage.rows}, but no document of {corpus.root} {has}: its sources were read as {formats}. Use sources with "
            f"{sources}, or another `rows`."
        )


@dataclass(frozen=True)
class ShardRows:
    """The rows of one split of a shard."""

    rows: pa.Table
    documents: int
    rejected: pa.Table
    counts: Counter[str]
    tokenized_by: Counter[str] = field(default_factory=Counter)
    """Texts only; see jobs.corpus.segments.Segments."""


def build_rows(
    stage: ShardsStage,
    documents: pa.Table,
    split: str,
    tokenizer: PreTrainedTokenizerBase,
    ends: frozenset[int],
    end_id: int,
) -> ShardRows:
    of_split = documents.filter(pc.field("split") == split)
    match stage.rows:
        case "text" | "messages":
            return _packed_rows(stage, of_split, split, tokenizer, ends, end_id)
        case "prompts":
            prompts = prompt_rows(of_split, tokenizer, stage)
            return ShardRows(prompts.table, prompts.table.num_rows, prompts.rejected, Counter())
        case kind:
            renderer = Renderer(tokenizer, ends, stage)
            # A held-out thumb may borrow an answer of the training split, never the other way round.
            lenders = documents if split == "heldout" else of_split
            examples = (
                preference_examples(of_split, renderer)
                if kind == "preferences"
                else thumb_examples(of_split, lenders, renderer)
            )
            return ShardRows(examples.table, examples.table.num_rows, examples.rejected, examples.counts)


def index_of(rows: pa.Table, sources: Mapping[int, str]) -> dict[str, Any]:
    """Of every row tokens to compute, weight and source; of all the stored tokens and segments. A prompt has one segment, and
    weighs 1.

    Args:
        sources: by document id.
    """
    offsets = rows["input_ids"].combine_chunks().offsets.to_numpy()
    tokens = np.diff(offsets)
    index: dict[str, Any] = {"tokens": tokens.tolist(), "stored_tokens": int(tokens.sum())}
    if rows.schema.equals(PROMPT_SCHEMA):
        found = [sources[document] for document in rows["document_id"].to_pylist()]
        return {**index, "weight": [1.0] * rows.num_rows, "segments": rows.num_rows, "source": found}
    owners = rows["document_ids"].to_pylist()
    if rows.schema.equals(EXAMPLE_SCHEMA):
        shared = [sum(ExampleRow(**row).shared_prompts()) for row in rows.to_pylist()]
        index["tokens"] = (tokens - shared).tolist()
        owners = [documents[:1] for documents in owners]  # behind a thumb is a completion that another document lends
    weights = rows["weights"].combine_chunks().flatten().to_numpy().astype(np.float64)
    index["weight"] = np.add.reduceat(weights, offsets[:-1]).tolist()
    index["segments"] = sum(map(len, rows["segment_lengths"].to_pylist()))
    names = [{sources[document] for document in documents} for documents in owners]
    index["source"] = [next(iter(found)) if len(found) == 1 else None for found in names]
    return index


def _packed_rows(
    stage: ShardsStage,
    documents: pa.Table,
    split: str,
    tokenizer: PreTrainedTokenizerBase,
    ends: frozenset[int],
    end_id: int,
) -> ShardRows:
    if stage.rows == "text":
        segments = text_segments(documents, tokenizer, end_id, stage.fast_tokenizer)
        segments = without_lone_tokens(segments, stage.context)
    else:
        segments = conversation_segments(documents, tokenizer, stage, ends)
    overflow = "split" if stage.rows == "text" else "truncate"
    if split == "train":
        rows = pack(segments.table, stage.context, overflow)
    else:
        # Each source for itself, so that its loss can be told; then mixed again, so that the first rows are of all.
        sources = dict(zip(documents["document_id"].to_pylist(), documents["source"].to_pylist(), strict=True))
        owners = np.array([sources[owner] for owner in segments.table["document_id"].to_pylist()], dtype=object)
        parts = [
            pack(segments.table.filter(pa.array(owners == name)), stage.context, overflow)
            for name in sorted(set(owners))
        ]
        rows = pa.concat_tables([ROW_SCHEMA.empty_table(), *parts])
        rows = rows.take(
            pa.array(np.argsort([owners[0] for owners in rows["document_ids"].to_pylist()], kind="stable"))
        )
    rows = rows.combine_chunks()
    return ShardRows(rows, segments.table.num_rows, segments.rejected, segments.counts, segments.tokenized_by)
