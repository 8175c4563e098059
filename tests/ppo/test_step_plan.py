"""Which prompts, seeds, minibatches and units: pure functions, the same on every machine and after every restart."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.ppo.plan import epoch_order, plan_update
from jobs.ppo.prompts import deal, requests_for, sampling_seed
from jobs.records import PromptRow

PROMPTS = [PromptRow([number, 7], number, "[]", None) for number in range(10)]


def test_seeds_are_fixed_and_never_meet() -> None:
    assert sampling_seed(3, "train", 0, 0, 0) == sampling_seed(3, "train", 0, 0, 0) == 527642679225921983
    seeds = {
        sampling_seed(run, split, step, place, sample)
        for run in (0, 1) for split in ("train", "heldout") for step in range(5) for place in range(5) for sample in range(4)
    }  # fmt: skip
    assert len(seeds) == 2 * 2 * 5 * 5 * 4 and all(0 <= seed < 2**63 for seed in seeds)


@given(st.integers(1, 10), st.integers(1, 5), st.integers(1, 4))
def test_every_prompt_is_asked_once_whoever_samples(count: int, unit: int, engines: int) -> None:
    requests = requests_for(PROMPTS[:count], 2, 0, "train", 0)
    dealt = deal(requests, unit, engines)
    asked = [request.prompt_id for units in dealt for part in units for request in part]
    assert sorted(asked) == list(range(count)) and len(dealt) == engines
    # The units themselves are the same with any number of engines.
    alone = {tuple(request.prompt_id for request in part) for part in deal(requests, unit, 1)[0]}
    assert {tuple(request.prompt_id for request in part) for units in dealt for part in units} == alone


tokens = st.dictionaries(st.integers(0, 40), st.integers(2, 300), min_size=4, max_size=24)


@settings(deadline=None)
@given(tokens, st.sampled_from([1, 2, 4]), st.integers(1, 4), st.integers(0, 5))
def test_an_update_takes_every_prompt_once_and_every_rank_has_as_many_rounds(
    lengths: dict[int, int], minibatches: int, ranks: int, step: int
) -> None:
    plan = plan_update(lengths, minibatches, ranks, 400, seed=1, step=step)
    met = Counter(prompt for rank in range(ranks) for prompt in plan.prompts_of_rank(rank))
    assert met == Counter(list(lengths))
    assert len(plan.minibatches) == minibatches
    for minibatch in plan.minibatches:
        assert len({len(of_rank) for of_rank in minibatch}) == 1
    # Which prompts are learnt from together does not depend on who learns.
    alone = plan_update(lengths, minibatches, 1, 400, seed=1, step=step)
    for minibatch, single in zip(plan.minibatches, alone.minibatches, strict=True):
        members = {prompt for of_rank in minibatch for batch in of_rank for prompt in batch}
        assert members == {prompt for batch in single[0] for prompt in batch}


def test_the_first_epoch_takes_minibatches_as_they_are() -> None:
    assert epoch_order(4, seed=1, step=2, epoch=0) == [0, 1, 2, 3]
    orders = {tuple(epoch_order(4, seed=1, step=step, epoch=1)) for step in range(20)}
    assert len(orders) > 5 and all(sorted(order) == [0, 1, 2, 3] for order in orders)
