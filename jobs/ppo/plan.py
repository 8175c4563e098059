"""Who learns from which answers: the minibatches of a step, cut over ranks and micro-batches.

    prompts of the step, with the tokens of all their answers --cut--> minibatches --balance--> ranks x micro-batches

Answers to one prompt stay together: a rank computes their prompt once, and what compares them needs no other rank. Every rank
has as many micro-batches as the others in every minibatch, because each is a round of collectives.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jobs.train.plan import MicroBatch, share_out


@dataclass(frozen=True)
class UpdatePlan:
    """`minibatches[m][r]` are the micro-batches of rank r in minibatch m, of prompts by their place in the step.

    Example:
        UpdatePlan(minibatches=((((0, 3), (5,)), ((2,), (1, 4))),))
    """

    minibatches: tuple[tuple[tuple[MicroBatch, ...], ...], ...]

    def of_rank(self, rank: int) -> list[tuple[MicroBatch, ...]]:
        """For each minibatch the micro-batches of a rank."""
        return [ranks[rank] for ranks in self.minibatches]

    def prompts_of_rank(self, rank: int) -> list[int]:
        return [prompt for micro in self.of_rank(rank) for batch in micro for prompt in batch]


def plan_update(
    tokens: Mapping[int, int], minibatches: int, ranks: int, micro_batch_tokens: int, seed: int, step: int
) -> UpdatePlan:
    """Cuts the prompts of a step; a pure function of its arguments.

    Args:
        tokens: of each prompt with all its answers, by its place in the step.
        seed, step: which prompts are in which minibatch is drawn from them.
    """
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, step], dtype=np.uint64)))
    order = generator.permutation(sorted(tokens))
    cut = [share_out(part.tolist(), tokens, ranks, micro_batch_tokens) for part in np.array_split(order, minibatches)]
    return UpdatePlan(tuple(cut))


def epoch_order(minibatches: int, seed: int, step: int, epoch: int) -> list[int]:
    """In which order an epoch takes the minibatches; the first one as they are, so that its first ratios are 1."""
    if epoch == 0:
        return list(range(minibatches))
    generator = np.random.Generator(np.random.Philox(key=np.array([seed * 1_000_003 + step, epoch], dtype=np.uint64)))
    return generator.permutation(minibatches).tolist()
