import pytest

from configs.schema.ppo import PpoAlgorithm
from jobs.ppo.losses import Totals
from jobs.ppo.minibatches import Minibatch, plan_minibatches
from tests.ppo.rollouts import make_rollouts

ROLLOUTS = make_rollouts([(4, 16), (4, 4), (2, 10), (4, 4), (6, 6), (3, 1), (5, 25), (4, 4)])


def numbers_of(minibatch: Minibatch) -> list[int]:
    return sorted(number for rank in minibatch.ranks for batch in rank for number in batch)


def test_one_minibatch_is_the_same_in_every_epoch_and_split_by_hand() -> None:
    """Tokens 20, 8, 12, 8, 12, 4, 30, 8 over two ranks, longest first: 30 + 12 + 8 = 50 and 20 + 12 + 8 + 8 + 4 = 52."""
    plans = [plan_minibatches(ROLLOUTS, PpoAlgorithm(), 2, 24, seed=0, step=3, epoch=epoch) for epoch in (0, 1)]
    assert plans[0] == plans[1]
    [minibatch] = plans[0]
    assert minibatch.totals == Totals(answers=8, actions=70) and numbers_of(minibatch) == list(range(8))
    tokens = [len(rollout.prompt_ids) + len(rollout.answer_ids) for rollout in ROLLOUTS]
    loads = [[sum(tokens[number] for number in batch) for batch in rank] for rank in minibatch.ranks]
    assert sorted(map(sum, loads)) == [50, 52]
    assert all(load <= 24 or load == 30 for rank in loads for load in rank), "only a longer rollout travels alone"
    assert len(loads[0]) == len(loads[1])


def test_every_epoch_has_every_rollout_once_in_an_order_of_its_own() -> None:
    settings = PpoAlgorithm(minibatches=4)
    epochs = [plan_minibatches(ROLLOUTS, settings, 2, 64, seed=1, step=0, epoch=epoch) for epoch in range(3)]
    cuts = [[numbers_of(minibatch) for minibatch in epoch] for epoch in epochs]
    for cut in cuts:
        assert sorted(number for numbers in cut for number in numbers) == list(range(8))
        assert [len(numbers) for numbers in cut] == [2, 2, 2, 2]
    assert cuts[0] != cuts[1] != cuts[2]
    again = plan_minibatches(ROLLOUTS, settings, 3, 16, seed=1, step=0, epoch=2)
    assert [numbers_of(minibatch) for minibatch in again] == cuts[2], "neither ranks nor micro-batches decide"


def test_unequal_minibatches_are_refused() -> None:
    with pytest.raises(ValueError, match="7 rollouts cannot be cut into 2 equal minibatches"):
        plan_minibatches(ROLLOUTS[:7], PpoAlgorithm(minibatches=2), 1, 64, 0, 0, 0)
