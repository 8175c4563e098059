"""Judged answers of one shard -> examples: every answer with its prompt as a segment of tokens and weights.

    Judgement --template--> prompt + answer, once for each answer --cut after its end, at the context--> ExampleRow
    thumbs: beside its own answer each gets that of another prompt, from which KTO estimates its KL term

All answers to a prompt begin with the same tokens: each is rendered with the prompt, and refused where the template or the
tokenizer would change the prompt's tokens.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from configs.schema.corpus import ShardsStage
from jobs.corpus.judgements import load
from jobs.corpus.raw import Message, RowError
from jobs.corpus.schema import EXAMPLE_SCHEMA, QUARANTINE_SCHEMA
from jobs.corpus.template import Rendered, render
from jobs.records import ExampleRow

DONORS_TRIED = 16
"""Completions of other prompts that are tried beside a thumb's own prompt; nearly always the first one fits."""


@dataclass(frozen=True)
class Examples:
    """The examples of a shard and what did not become one."""

    table: pa.Table
    """EXAMPLE_SCHEMA, in the order of the documents."""
    rejected: pa.Table
    """QUARANTINE_SCHEMA"""
    counts: Counter[str]
    """`truncated`: answers cut at the context; `lost_tokens`: what was cut off them."""


@dataclass(frozen=True)
class Renderer:
    """How answers become tokens."""

    tokenizer: PreTrainedTokenizerBase
    ends: frozenset[int]
    stage: ShardsStage

    def answer(self, prompt: Sequence[Message], answer: Sequence[Message]) -> tuple[Rendered, int]:
        """Prompt and answer up to its end token, within the context, and how many tokens were cut off there. Raises RowError."""
        # An answer that is judged is learnt, whatever weight its file gave it for SFT.
        turns: list[Message] = [Message(role=turn["role"], content=turn["content"]) for turn in (*prompt, *answer)]
        rendered = render(self.tokenizer, turns, self.ends, "assistant", first=len(prompt))
        # What a template writes after the end token (ChatML's line end) no model generates: a score is read at the last
        # token of a segment, and that of an answer PPO samples is its end token.
        stop = int(np.flatnonzero(rendered.weights)[-1]) + 1
        whole = Rendered(rendered.input_ids[:stop], rendered.weights[:stop], rendered.prompt_length)
        context = self.stage.context
        surplus = max(0, len(whole.input_ids) - context)
        if surplus and self.stage.too_long == "quarantine":
            raise RowError("too_long", f"{surplus} tokens over the context of {context}")
        cut = Rendered(whole.input_ids[:context], whole.weights[:context], whole.prompt_length)
        if not cut.weights.any():
            raise RowError("answer_cut_off", f"{surplus} tokens over the context of {context}, and with them an answer")
        return cut, surplus


@dataclass(frozen=True)
class Thumb:
    """One answer, liked (level 0) or not (1)."""

    document_id: int
    place: dict[str, str]
    prompt: list[Message]
    answer: list[Message]
    level: int


def preference_examples(documents: pa.Table, renderer: Renderer) -> Examples:
    """Pairs and rankings; `documents` are sorted."""
    rows: list[ExampleRow] = []
    rejected: list[dict[str, str]] = []
    counts: Counter[str] = Counter()
    for document in documents.select(["document_id", "judgement", "uri", "source"]).to_pylist():
        judgement = load(document["judgement"])
        try:
            rendered = [renderer.answer(judgement.prompt, answer) for answer in judgement.answers]
            if len({answer.input_ids.tobytes() for answer, _ in rendered}) < len(rendered):
                raise RowError(
                    "identical_answers", f"within the context of {renderer.stage.context} answers are the same"
                )
        except RowError as error:
            rejected.append(_quarantined(document, error))
            continue
        _count(counts, rendered)
        answers = [answer for answer, _ in rendered]
        owners = [document["document_id"]] * len(answers)
        rows.append(_example(answers, owners, judgement.levels, judgement.margin))
    return _examples(rows, rejected, counts)


def thumb_examples(documents: pa.Table, others: pa.Table, renderer: Renderer) -> Examples:
    """Thumbs, each with a completion of another prompt behind its own.

    Args:
        documents: sorted; their hashes order them, so the next one is as good as a random one.
        others: documents whose answers may be lent, also sorted.
    """
    lenders = list(_thumbs(others))
    rows: list[ExampleRow] = []
    rejected: list[dict[str, str]] = []
    counts: Counter[str] = Counter()
    starts = {thumb.document_id: place for place, thumb in enumerate(lenders)}
    for thumb in _thumbs(documents):
        start = starts.get(thumb.document_id, 0) + 1
        try:
            own = renderer.answer(thumb.prompt, thumb.answer)
            following = (lenders[(start + step) % len(lenders)] for step in range(len(lenders)))
            mismatched, lender = _mismatched(thumb, following, renderer)
        except RowError as error:
            rejected.append(_quarantined(thumb.place, error))
            continue
        _count(counts, [own])
        rows.append(_example([own[0], mismatched], [thumb.document_id, lender], [thumb.level, -1], 0.0))
    return _examples(rows, rejected, counts)


def _thumbs(documents: pa.Table) -> Iterator[Thumb]:
    """A pair or ranking counts as its best answer, liked, and its worst, not liked."""
    for document in documents.select(["document_id", "judgement", "uri", "source"]).to_pylist():
        judgement = load(document["judgement"])
        place = {"uri": document["uri"], "source": document["source"]}
        ends = [0] if judgement.judged_as == "thumbs" else [0, -1]
        for end in ends:
            level = judgement.levels[0] if len(ends) == 1 else int(end != 0)
            yield Thumb(document["document_id"], place, judgement.prompt, judgement.answers[end], level)


def _mismatched(thumb: Thumb, lenders: Iterator[Thumb], renderer: Renderer) -> tuple[Rendered, int]:
    """The prompt of a thumb with the first answer to another prompt that fits, and whose it is. Raises RowError."""
    tried = 0
    for lender in lenders:
        if lender.prompt == thumb.prompt or lender.answer == thumb.answer:
            continue
        if tried == DONORS_TRIED:
            break
        tried += 1
        try:
            return renderer.answer(thumb.prompt, lender.answer)[0], lender.document_id
        except RowError:
            continue  # the lender's own row says what is wrong with it
    raise RowError(
        "no_other_answer",
        f"none of {tried} answers to other prompts of the shard fits behind its prompt; KTO needs one. Lower `shards`",
    )


def _example(answers: list[Rendered], owners: list[int], levels: list[int], margin: float) -> ExampleRow:
    return ExampleRow(
        np.concatenate([answer.input_ids for answer in answers]).tolist(),
        np.concatenate([answer.weights for answer in answers]).tolist(),
        [len(answer.input_ids) for answer in answers],
        owners,
        levels,
        [answer.prompt_length for answer in answers],
        margin,
    )


def _count(counts: Counter[str], rendered: list[tuple[Rendered, int]]) -> None:
    for _, surplus in rendered:
        if surplus:
            counts.update(truncated=1, lost_tokens=surplus)


def _quarantined(place: dict[str, str], error: RowError) -> dict[str, str]:
    return {"uri": place["uri"], "source": place["source"], "reason": error.reason, "detail": error.detail}


def _examples(rows: list[ExampleRow], rejected: list[dict[str, str]], counts: Counter[str]) -> Examples:
    columns = {name: [getattr(row, name) for row in rows] for name in EXAMPLE_SCHEMA.names}
    return Examples(
        pa.table(columns, schema=EXAMPLE_SCHEMA), pa.Table.from_pylist(rejected, schema=QUARANTINE_SCHEMA), counts
    )
