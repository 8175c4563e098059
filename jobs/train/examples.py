"""Judged answers as tensors: whole examples in one flat batch, with the pairs that their levels make.

ExampleRow x N --split off mismatched--> pack_rows + levels, pairs, references -> PackedBatch with Answers
                                         (the prompt of an example is computed once)
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import torch

from jobs.records import ExampleRow, PackedRow
from jobs.train.batch import Answers, PackedBatch, pack_rows


def pack_examples(
    rows: Sequence[ExampleRow],
    references: Sequence[Sequence[float]] | None = None,
    learn_best_prompt: bool = False,
) -> PackedBatch:
    """Judged answers -> one flat batch. Mismatched completions (level -1) are left out; see `pack_mismatched`.

    Args:
        references: for each row the log-probability of each answer under the reference.
        learn_best_prompt: weigh the prompt of the best answers too, which ORPO's language-model term asks for.

    Raises:
        ValueError: as `pack_rows`.
    """
    own = [_segments(row, mismatched=False) for row in rows]
    if learn_best_prompt:
        own = [_with_weighted_prompts(row) for row in own]
    given = references or [[torch.nan] * len(row.levels) for row in own]
    return _with_answers(own, [list(values) for values in given])


def pack_mismatched(rows: Sequence[ExampleRow], references: Sequence[Sequence[float]] | None = None) -> PackedBatch:
    """The mismatched completions of thumbs, as `pack_examples` does it for the others."""
    given = references or [[torch.nan]] * len(rows)
    return _with_answers([_segments(row, mismatched=True) for row in rows], [list(values) for values in given])


def _segments(row: ExampleRow, mismatched: bool) -> ExampleRow:
    """The row with its mismatched completions only, or without them."""
    starts = [0, *accumulate(row.segment_lengths)]
    kept = [segment for segment, level in enumerate(row.levels) if (level < 0) == mismatched]
    spans = [slice(starts[segment], starts[segment + 1]) for segment in kept]
    return ExampleRow(
        [token for span in spans for token in row.input_ids[span]],
        [weight for span in spans for weight in row.weights[span]],
        [row.segment_lengths[segment] for segment in kept],
        [row.document_ids[segment] for segment in kept],
        [row.levels[segment] for segment in kept],
        [row.prompt_lengths[segment] for segment in kept],
        row.margin,
    )


def _with_weighted_prompts(row: ExampleRow) -> ExampleRow:
    weights = list(row.weights)
    start = 0
    for length, level, prompt in zip(row.segment_lengths, row.levels, row.prompt_lengths, strict=True):
        if level == 0:
            weights[start + 1 : start + prompt] = [1.0] * (prompt - 1)
        start += length
    return replace(row, weights=weights)


def _with_answers(rows: Sequence[ExampleRow], references: list[list[float]]) -> PackedBatch:
    packed = [PackedRow(row.input_ids, row.weights, row.segment_lengths, row.document_ids) for row in rows]
    batch = pack_rows(packed, [row.shared_prompts() for row in rows])
    examples: list[int] = []
    levels: list[int] = []
    better: list[int] = []
    worse: list[int] = []
    shares: list[float] = []
    margins: list[float] = []
    for number, row in enumerate(rows):
        first, count = len(levels), len(row.levels)
        pairs = [(i, j) for i in range(count) for j in range(count) if row.levels[i] < row.levels[j]]
        better += [first + i for i, _ in pairs]
        worse += [first + j for _, j in pairs]
        shares += [1 / len(pairs) for _ in pairs]
        margins += [row.margin] * len(pairs)
        examples += [number] * count
        levels += row.levels
    kept_W = batch.weights_T.nonzero().squeeze(1)
    if not rows:  # the one token of an empty batch is a segment too
        examples, levels, references = [0], [0], [[torch.nan]]
    bounds = batch.cu_seqlens_S1.long()
    segment_W = torch.bucketize(kept_W, bounds, right=True) - 1
    prompts_S = torch.tensor([length for row in rows for length in row.prompt_lengths] or [0], dtype=torch.int64)
    # A position predicts the next token, so the last one of the prompt predicts the first of the answer.
    answer_W = batch.positions_T[kept_W] + 1 >= prompts_S[segment_W]
    answers = Answers(
        torch.tensor(examples, dtype=torch.int64),
        torch.tensor(levels, dtype=torch.int64),
        torch.tensor(better, dtype=torch.int64),
        torch.tensor(worse, dtype=torch.int64),
        torch.tensor(shares, dtype=torch.float32),
        torch.tensor(margins, dtype=torch.float32),
        segment_W,
        answer_W.float(),
        torch.tensor([value for values in references for value in values], dtype=torch.float32),
    )
    return replace(batch, judged=answers)
