"""Cleaned rows as the rows of a table: where each goes, and what it is known by.

Refined --sha256--> id, partition, side of the split;  Rejected --hash of its place--> partition
"""

from typing import Any

import orjson
import pyarrow as pa

from jobs.corpus.clean import collapsed
from jobs.corpus.formats import QUESTION_FORMATS
from jobs.corpus.judgements import dump, first_question
from jobs.corpus.raw import Raw, Rejected
from jobs.corpus.refine import Refined
from jobs.corpus.schema import DOCUMENT_SCHEMA, document_id_of, partition_of, text_sha256

CANDIDATE_SCHEMA = pa.schema(
    [
        ("partition", pa.int32()),
        *DOCUMENT_SCHEMA,
        ("format", pa.string()),
        ("ignored", pa.string()),
        ("encoding", pa.string()),
        ("stripped", pa.string()),
        ("findings", pa.string()),
        ("split_by", pa.string()),
        ("precedence", pa.int32()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
"""A document, or a bad row: then `reason` and `detail` are set and the document's own columns are null. `split_by` is the
sha256 of what decides the side of the split; `ignored` is a JSON list of columns, `stripped` characters by kind
of layout, `findings` a list of kind and digest. Of documents that are alike the one of the smallest `precedence` stays."""


def candidate(refined: Refined | Rejected, partitions: int, audited: bool = False) -> dict[str, Any]:
    if isinstance(refined, Rejected):
        row = refined
        partition = partition_of(document_id_of(text_sha256(row.uri)), partitions)
        return {"partition": partition, "uri": row.uri, "reason": row.reason, "detail": row.detail}
    row = refined.document
    judgement = None if row.judgement is None else dump(row.judgement)
    # Two pairs may share prompt and chosen answer: their judgements tell them apart.
    sha256 = text_sha256(row.text if judgement is None else f"{row.text}\n{judgement}")
    document_id = document_id_of(sha256)
    return {
        "partition": partition_of(document_id, partitions),
        "document_id": document_id,
        "text": row.text,
        "messages": None if row.messages is None else orjson.dumps(row.messages).decode(),
        "judged_as": None if row.judgement is None else row.judgement.judged_as,
        "judgement": judgement,
        "uri": row.uri,
        "sha256": sha256,
        "format": row.format,
        "byte_offset": None if row.byte_range is None else row.byte_range.offset,
        "byte_length": None if row.byte_range is None else row.byte_range.length,
        "encoding": row.encoding,
        "stripped": orjson.dumps(refined.stripped).decode() if refined.stripped else None,
        "findings": orjson.dumps([[each.kind, each.digest if audited else ""] for each in refined.findings]).decode()
        if refined.findings
        else None,
        "ignored": orjson.dumps(row.ignored).decode() if row.ignored else None,
        "split_by": _split_by(row, sha256),
        **({} if row.licence is None else {"licence": row.licence}),
    }


def _split_by(row: Raw, sha256: str) -> str:
    """Conversations and judged answers go by what is asked, so that no prompt is on both sides; texts by what they say."""
    if row.judgement is not None:
        question = first_question([*row.judgement.prompt, *row.judgement.answers[0]])
    elif row.format in QUESTION_FORMATS and row.messages is not None:
        question = first_question(row.messages)
    else:
        return sha256
    # A prompt with another space or line end is the same prompt.
    asked = "\n\n".join(f"{turn['role']}: {collapsed(turn['content'])}" for turn in question)
    return text_sha256(asked) if question else sha256
