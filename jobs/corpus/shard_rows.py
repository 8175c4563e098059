"""Which documents a kind of rows is made of, and how those of one shard become its rows.

documents --kind--> segments, packed | whole examples of judged answers | prompts
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerBase

from cluster.storage import Store
from configs.schema.corpus import ShardsStage
from jobs.corpus.examples import Renderer, preference_examples, thumb_examples
from jobs.corpus.pack import pack
from jobs.corpus.prompts import prompt_rows
from jobs.corpus.schema import DataError
from jobs.corpus.segments import conversation_segments, text_segments

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
        case "text":
            segments = text_segments(of_split, tokenizer, end_id)
        case "messages":
            segments = conversation_segments(of_split, tokenizer, stage, ends)
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
    rows = pack(segments.table, stage.context, "split" if stage.rows == "text" else "truncate")
    return ShardRows(rows, segments.table.num_rows, segments.rejected, segments.counts)
