"""Sampled answers as tensors, and columns of tensors as numbers of each answer.

    Rollout x N (+ columns, one tensor an answer) --pack_rollouts--> PackedBatch with Actions
    (W,) of a forward pass --split_by_answer--> N tensors of (A,)

The same rollouts in the same order give the same batch to the bit, so the pass that scores them and the first update read
the same micro-batch.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor

from jobs.records import PackedRow, Rollout
from jobs.train.batch import Actions, PackedBatch, empty_batch, pack_rows

Columns = Sequence[Tensor]
"""For each rollout a tensor (A,), one number for each token of its answer."""


def pack_rollouts(
    rollouts: Sequence[Rollout],
    *,
    old_logprobs: Columns | None = None,
    reference_logprobs: Columns | None = None,
    old_values: Columns | None = None,
    advantages: Columns | None = None,
    returns: Columns | None = None,
) -> PackedBatch:
    """Rollouts -> one flat batch, a segment each; only their answers have weight. Without rollouts an empty batch.

    Answers to one prompt that stand side by side share it.

    Args:
        old_logprobs, ...: columns of `Actions`; NaN where left out.

    Raises:
        ValueError: a rollout without prompt or answer, or a column that does not have a number for each token of its answer.
    """
    for rollout in rollouts:
        _check(rollout)
    if not rollouts:
        batch, lengths = empty_batch(), []
    else:
        batch, lengths = _pack(rollouts), answer_lengths(rollouts)
    actions = Actions(
        segment_W=torch.repeat_interleave(torch.tensor(lengths, dtype=torch.int64)),
        sampler_logprobs_W=torch.tensor([value for rollout in rollouts for value in rollout.sampler_logprobs]),
        old_logprobs_W=_column("old_logprobs", old_logprobs, lengths),
        reference_logprobs_W=_column("reference_logprobs", reference_logprobs, lengths),
        old_values_W=_column("old_values", old_values, lengths),
        advantages_W=_column("advantages", advantages, lengths),
        returns_W=_column("returns", returns, lengths),
    )
    return replace(batch, actions=actions)


def split_by_answer(values_W: Tensor, rollouts: Sequence[Rollout]) -> list[Tensor]:
    """What a forward pass gave for the actions of a packed batch, as one tensor (A,) for each of its rollouts."""
    return list(values_W.split(answer_lengths(rollouts)))


def answer_lengths(rollouts: Sequence[Rollout]) -> list[int]:
    """Tokens of each answer."""
    return [len(rollout.answer_ids) for rollout in rollouts]


def _pack(rollouts: Sequence[Rollout]) -> PackedBatch:
    """Neighbours that answer the same prompt are one row, and the prompt is computed once."""
    rows: list[PackedRow] = []
    shared: list[list[int]] = []
    for _, neighbours in groupby(rollouts, key=lambda rollout: (rollout.prompt_id, tuple(rollout.prompt_ids))):
        answers = list(neighbours)
        prompt = len(answers[0].prompt_ids)
        rows.append(
            PackedRow(
                [token for answer in answers for token in (*answer.prompt_ids, *answer.answer_ids)],
                [weight for answer in answers for weight in [0.0] * prompt + [1.0] * len(answer.answer_ids)],
                [prompt + len(answer.answer_ids) for answer in answers],
                [answer.prompt_id for answer in answers],
            )
        )
        shared.append([0] + [prompt - 1] * (len(answers) - 1))
    return pack_rows(rows, shared)


def _column(name: str, columns: Columns | None, lengths: list[int]) -> Tensor:
    if columns is None:
        return torch.full((sum(lengths),), torch.nan)
    if [len(values_A) for values_A in columns] != lengths:
        raise ValueError(
            f"{name} has {[len(values_A) for values_A in columns]} numbers for answers of {lengths} tokens; give one number "
            "for each token of an answer, in the order of the rollouts (split_by_answer)"
        )
    return torch.cat([torch.empty(0), *columns]).float()


def _check(rollout: Rollout) -> None:
    where = f"rollout {rollout.sample} of prompt {rollout.prompt_id}"
    if not rollout.prompt_ids or not rollout.answer_ids:
        raise ValueError(
            f"{where}: {len(rollout.prompt_ids)} prompt and {len(rollout.answer_ids)} answer tokens. Both must have one at "
            "least: nothing predicts the first token of a text, and an answer has its end token"
        )
    if len(rollout.sampler_logprobs) != len(rollout.answer_ids):
        raise ValueError(
            f"{where}: {len(rollout.sampler_logprobs)} sampler log-probabilities for {len(rollout.answer_ids)} answer tokens; "
            "the sampler must give one for each sampled token"
        )
