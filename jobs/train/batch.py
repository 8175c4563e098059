"""Packed rows as tensors.

    PackedRow (jobs/records.py) x N -> pack_rows -> PackedBatch -> PackedModel.forward -> logprobs_W or scores_S
    ExampleRow x N -> pack_examples (jobs/train/examples.py) -> PackedBatch with Answers
    Rollout x N -> pack_rollouts (jobs/ppo/batches.py) -> PackedBatch with Actions

A micro-batch is flat: the segments of all its rows lie one after the other, and nothing is padded. `W` below counts the
positions with weight > 0, in order; only those get a log-probability. `S` counts segments, `P` pairs of answers.

Answers to one prompt go on from one copy of it: a segment may leave its first tokens out and read the keys and values of an
earlier segment that begins with them. The prompt's last token stays, because it predicts the answer's first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import accumulate

import torch
from torch import Tensor

from jobs.records import PackedRow


@dataclass(frozen=True, slots=True)
class Answers:
    """What objectives that judge whole answers know of a batch whose segments are a prompt and an answer each.

    Example:
        a pair (segments 0 and 1) and a ranking of three with a tie for the second place (segments 2, 3 and 4):
        example_S=[0, 0, 1, 1, 1], level_S=[0, 1, 0, 1, 1], better_P=[0, 2, 2], worse_P=[1, 3, 4], share_P=[1, 1/2, 1/2]
    """

    example_S: Tensor
    """int64, from 0, in order."""
    level_S: Tensor
    """int64, 0 is best; of a thumb 0 = up, 1 = down."""
    better_P: Tensor
    """int64, the segment that is preferred; every two answers of one example whose levels differ are a pair."""
    worse_P: Tensor
    """int64, the segment it is preferred to."""
    share_P: Tensor
    """float32, 1 over the pairs of the example: every example counts the same, however many answers it has."""
    margin_P: Tensor
    """float32, of the example; 0 where the data give none."""
    segment_W: Tensor
    """int64, the segment of each weighted position."""
    answer_W: Tensor
    """float32, 1 where the position predicts a token of the answer, 0 where one of the prompt."""
    reference_S: Tensor
    """float32, log-probability of the answer under the reference; NaN where it is not known."""

    def answer_logprobs(self, logprobs_W: Tensor) -> Tensor:
        """(S,) log-probability of each answer: the sum over its tokens."""
        sums_S = logprobs_W.new_zeros(self.level_S.shape[0])
        return sums_S.index_add(0, self.segment_W, logprobs_W * self.answer_W)

    def answer_lengths(self) -> Tensor:
        """(S,) float32, tokens of each answer."""
        return torch.zeros_like(self.level_S, dtype=torch.float32).index_add(0, self.segment_W, self.answer_W)

    def to(self, device: torch.device) -> "Answers":
        """The same on `device`."""
        return Answers(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True, slots=True)
class Actions:
    """What PPO knows of a batch whose segments are a prompt and a sampled answer each.

    Every token of an answer, its end token too, is an action, and nothing else has weight: `W` counts actions. All columns
    but `segment_W` are float32; NaN where a number is not known (yet), or nobody needs it.

    Example:
        prompt [5, 9] with answer [7, 2], and prompt [4] with answer [8]: segment_W=[0, 0, 1],
        sampler_logprobs_W=[-0.4, -0.1, -2.3], advantages_W=[0.7, 0.7, -1.4], ...
    """

    segment_W: Tensor
    """int64, the segment of each action."""
    sampler_logprobs_W: Tensor
    """Log-probabilities as the sampler drew them, at the sampling temperature."""
    old_logprobs_W: Tensor
    """Under the policy before its update, by the learner that updates it, at the same temperature."""
    reference_logprobs_W: Tensor
    """Under the frozen reference, at the same temperature."""
    old_values_W: Tensor
    """Of the state before each action, by the critic before its update."""
    advantages_W: Tensor
    returns_W: Tensor
    """What the critic learns."""

    def to(self, device: torch.device) -> "Actions":
        """The same on `device`."""
        return Actions(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """T tokens of S segments that do not see each other.

    Example:
        segments [5, 9, 2] and [7, 2], every token but the first of each learnt:
        PackedBatch(input_ids_T=[5, 9, 2, 7, 2], targets_T=[9, 2, 0, 2, 0], weights_T=[1, 1, 0, 1, 0],
                    positions_T=[0, 1, 2, 0, 1], cu_seqlens_S1=[0, 3, 5])
    """

    input_ids_T: Tensor
    """int64"""
    targets_T: Tensor
    """int64, the next token of the same segment; 0 at the last token of a segment, where the weight is 0."""
    weights_T: Tensor
    """float32, weight of predicting `targets_T`."""
    positions_T: Tensor
    """int64, place in the text: from 0 in each segment, or from the number of tokens it shares."""
    cu_seqlens_S1: Tensor
    """int32, (S + 1,): where each segment starts, and T."""
    judged: Answers | None = None
    """Of a batch of examples."""
    shared_S2: Tensor | None = None
    """int64, (S, 2): the segment whose first tokens come before this one's, and how many; (0, 0) for none. None: no segment
    shares any."""
    actions: Actions | None = None
    """Of a batch of rollouts."""

    @property
    def answers(self) -> Answers:
        """Of a batch of examples; it must be one."""
        assert self.judged is not None, "packed rows have no answers: the shards are of `rows: text` or `messages`"
        return self.judged

    def to(self, device: torch.device) -> "PackedBatch":
        """The same batch on `device`."""
        return PackedBatch(
            self.input_ids_T.to(device),
            self.targets_T.to(device),
            self.weights_T.to(device),
            self.positions_T.to(device),
            self.cu_seqlens_S1.to(device),
            None if self.judged is None else self.judged.to(device),
            None if self.shared_S2 is None else self.shared_S2.to(device),
            None if self.actions is None else self.actions.to(device),
        )

    @property
    def weights_W(self) -> Tensor:
        """The weights > 0, in order: one for each log-probability of a forward pass."""
        return self.weights_T[self.weights_T > 0]


def pack_rows(rows: Sequence[PackedRow], shared: Sequence[Sequence[int]] | None = None) -> PackedBatch:
    """Rows -> one flat batch.

    A row's weight belongs to the token that is predicted, a batch's weight to the position that predicts it, so weights
    move one place to the left inside each segment.

    Args:
        shared: for every segment of every row how many of its first tokens are those of the row's first segment and need not
            be computed again. They must be fewer than its tokens, and neither they nor the next one weighed.

    Raises:
        ValueError: a row whose parts do not fit together, or that weighs the first token of a segment, which nothing
            predicts: its weight would count in the loss denominator and nowhere else.
    """
    input_ids: list[int] = []
    targets: list[int] = []
    weights: list[float] = []
    positions: list[int] = []
    lengths: list[int] = []
    sources: list[tuple[int, int]] = []
    for number, row in enumerate(rows):
        _check_row(number, row)
        start, first = 0, len(lengths)
        for segment, length in enumerate(row.segment_lengths):
            known = 0 if shared is None else shared[number][segment]
            assert row.input_ids[start : start + known] == row.input_ids[:known] and known < length, (number, segment)
            begin, stop = start + known, start + length
            input_ids += row.input_ids[begin:stop]
            targets += [*row.input_ids[begin + 1 : stop], 0]
            weights += [*row.weights[begin + 1 : stop], 0.0]
            positions += range(known, length)
            lengths.append(length - known)
            sources.append((first, known) if known else (0, 0))
            start = stop
    if not input_ids:
        return empty_batch()
    return PackedBatch(
        torch.tensor(input_ids, dtype=torch.int64),
        torch.tensor(targets, dtype=torch.int64),
        torch.tensor(weights, dtype=torch.float32),
        torch.tensor(positions, dtype=torch.int64),
        torch.tensor([0, *accumulate(lengths)], dtype=torch.int32),
        shared_S2=torch.tensor(sources, dtype=torch.int64) if any(known for _, known in sources) else None,
    )


def empty_batch() -> PackedBatch:
    """One token of weight 0: a rank without a row runs it, so that it takes part in every collective."""
    return PackedBatch(
        torch.zeros(1, dtype=torch.int64),
        torch.zeros(1, dtype=torch.int64),
        torch.zeros(1, dtype=torch.float32),
        torch.zeros(1, dtype=torch.int64),
        torch.tensor([0, 1], dtype=torch.int32),
    )


def _check_row(number: int, row: PackedRow) -> None:
    tokens = len(row.input_ids)
    if len(row.weights) != tokens or sum(row.segment_lengths) != tokens or min(row.segment_lengths, default=0) < 1:
        raise ValueError(
            f"row {number} of the micro-batch is broken: {tokens} tokens, {len(row.weights)} weights, segment lengths "
            f"{row.segment_lengths}. Weights must match tokens and lengths >= 1 must sum to them; prepare the shards again."
        )
    starts = [0, *accumulate(row.segment_lengths)][:-1]
    weighted = [start for start in starts if row.weights[start] != 0]
    if weighted:
        raise ValueError(
            f"row {number} of the micro-batch weighs token {weighted[0]}, the first of its segment, which has no "
            "predecessor to predict it from. Give it weight 0 when the shards are prepared."
        )
