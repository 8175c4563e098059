"""Which rollouts make up which update, and who computes them: a pure function of their lengths and (seed, step, epoch).

    rollouts of a step --order of the epoch--> minibatches --balance by tokens--> ranks x micro-batches

Old log-probabilities and old values are computed with the minibatches of epoch 0, so the first update reads the very
micro-batches they came from and its ratio is 1 to the bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from configs.schema.ppo import PpoAlgorithm
from jobs.ppo.losses import Totals
from jobs.records import Rollout
from jobs.train.plan import spread


@dataclass(frozen=True, slots=True)
class Minibatch:
    """One optimizer step; numbers are places in the list of rollouts.

    Example:
        Minibatch(ranks=(((0, 3), (5,)), ((1,), (2, 4))), totals=Totals(answers=6, actions=233))
    """

    ranks: tuple[tuple[tuple[int, ...], ...], ...]
    """`ranks[r][m]`; every rank has the same number of micro-batches, empty ones included."""
    totals: Totals


def plan_minibatches(
    rollouts: Sequence[Rollout],
    settings: PpoAlgorithm,
    world_size: int,
    micro_batch_tokens: int,
    seed: int,
    step: int,
    epoch: int,
) -> list[Minibatch]:
    """The minibatches of one epoch over the rollouts of a step.

    With one minibatch every epoch has the same; with more, each epoch cuts the rollouts anew, in an order that depends on
    nothing but (seed, step, epoch).

    Args:
        micro_batch_tokens: most tokens, prompt and answer, in one forward pass; a longer rollout travels alone.

    Raises:
        ValueError: the minibatches would not be equal.
    """
    if len(rollouts) % settings.minibatches:
        raise ValueError(f"{len(rollouts)} rollouts cannot be cut into {settings.minibatches} equal minibatches")
    order = np.arange(len(rollouts))
    if settings.minibatches > 1:
        order = np.random.default_rng([seed, step, epoch]).permutation(order)
    tokens = {number: len(rollout.prompt_ids) + len(rollout.answer_ids) for number, rollout in enumerate(rollouts)}
    minibatches = []
    for part in np.split(order, settings.minibatches):
        numbers = part.tolist()
        actions = sum(len(rollouts[number].answer_ids) for number in numbers)
        ranks = spread(numbers, tokens, world_size, micro_batch_tokens)
        minibatches.append(Minibatch(ranks, Totals(len(numbers), actions)))
    return minibatches
