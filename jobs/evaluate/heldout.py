"""Held-out documents -> rows to score, with the model's own tokenizer and template.

    corpus heldout/*.parquet --first N by id--> documents --tokenise, cut--> HeldoutRow (PackedRow of one segment + bytes)

Every model sees the same documents. A model with another tokenizer sees another cut of them, which is why a row carries the
bytes of what it scores.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from configs.errors import UserError
from configs.schema.evaluation import HeldoutSet
from jobs.records import PackedRow

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

    from jobs.corpus.raw import Message

Rows = Literal["text", "messages"]


class EvaluationError(UserError, ValueError):
    """An evaluation that cannot be made; the message says how to mend it."""


@dataclass(frozen=True, slots=True)
class HeldoutDocument:
    """What of a held-out document is needed to score it.

    Example:
        HeldoutDocument(document_id=-712, text="Background. ...", messages=None)
    """

    document_id: int
    text: str
    messages: "list[Message] | None"


@dataclass(frozen=True, slots=True)
class HeldoutRow:
    """One document as one model reads it.

    Example:
        HeldoutRow(document_id=-712, row=PackedRow(input_ids=[5, 9], weights=[0, 1], ...), bytes=4)
    """

    document_id: int
    row: PackedRow
    bytes: int
    """UTF-8 bytes of what the weighted tokens decode to, special tokens left out."""


def first_documents(table: "pa.Table", rows: Rows, count: int, key: str) -> list[HeldoutDocument]:
    """The first `count` held-out documents by id; with rows "messages", of those that are conversations.

    Args:
        table: the held-out split, sorted by document_id (jobs.corpus.read_corpus_split).
        key: where the config asks for them, for the error.

    Raises:
        EvaluationError: there are fewer.
    """
    documents = []
    for row in table.select(["document_id", "text", "messages"]).to_pylist():
        if rows == "messages" and row["messages"] is None:
            continue
        messages = None if row["messages"] is None else json.loads(row["messages"])
        documents.append(HeldoutDocument(row["document_id"], row["text"], messages))
        if len(documents) == count:
            return documents
    kind = "conversations" if rows == "messages" else "documents"
    raise EvaluationError(
        f"{key}: {count} held-out {kind} asked for, the corpus has {len(documents)}. Ask for fewer, or raise its "
        "`heldout_fraction`."
    )


def heldout_rows(
    documents: Sequence[HeldoutDocument],
    chosen: HeldoutSet,
    tokenizer: "PreTrainedTokenizerBase",
    ends: Collection[int],
) -> list[HeldoutRow]:
    """Tokenises documents and cuts each to `chosen.tokens` tokens.

    text: every token after the first weighs 1. messages: the assistant's tokens and the end of sequence that closes its
    turn, as in training (jobs.corpus.template).

    Args:
        ends: tokens that end an answer (jobs.corpus.template.end_token_ids).

    Raises:
        EvaluationError: a conversation the template cannot render, or documents with no token to score within the cut.
    """
    rows = [_row(document, chosen, tokenizer, ends) for document in documents]
    lost = sum(not row.bytes for row in rows)
    if lost:
        raise EvaluationError(
            f"{lost} of {len(rows)} documents of {chosen.corpus} have no token left to score within `tokens: {chosen.tokens}`. "
            "Prompts count too: raise `tokens` of the set."
        )
    return rows


def conversation_prompt(document: HeldoutDocument) -> "tuple[list[Message], str]":
    """The messages before the last answer, and that answer."""
    assert document.messages is not None and document.messages[-1]["role"] == "assistant", document.document_id
    return document.messages[:-1], document.messages[-1]["content"]


def _row(
    document: HeldoutDocument, chosen: HeldoutSet, tokenizer: "PreTrainedTokenizerBase", ends: Collection[int]
) -> HeldoutRow:
    if chosen.rows == "messages":
        input_ids, weights = _render(document, tokenizer, ends)
    else:
        encoded: Any = tokenizer(document.text, verbose=False)
        input_ids = list(encoded["input_ids"])
        weights = [0.0] + [1.0] * (len(input_ids) - 1)
    input_ids, weights = input_ids[: chosen.tokens], weights[: chosen.tokens]
    scored = [token for token, weight in zip(input_ids, weights, strict=True) if weight > 0]
    text = tokenizer.decode(scored, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    row = PackedRow(input_ids, weights, [len(input_ids)], [document.document_id])
    return HeldoutRow(document.document_id, row, len(text.encode()))


def _render(
    document: HeldoutDocument, tokenizer: "PreTrainedTokenizerBase", ends: Collection[int]
) -> tuple[list[int], list[float]]:
    from jobs.corpus.raw import RowError
    from jobs.corpus.template import render

    assert document.messages is not None, document.document_id
    try:
        rendered = render(tokenizer, document.messages, ends, "assistant")
    except RowError as error:
        raise EvaluationError(
            f"held-out document {document.document_id} cannot be rendered ({error.reason}: {error.detail}). Mend or remove it "
            "in its source; `acclimate lineage` names the source."
        ) from error
    return rendered.input_ids.tolist(), rendered.weights.tolist()
