import pytest
import torch

from jobs.ppo.batches import pack_rollouts, split_by_answer
from jobs.records import Rollout
from tests.ppo.rollouts import made_up, make_rollouts

TWO = [
    Rollout(0, 0, [5, 9], [7, 2], [-0.5, -0.25], True, 0),
    Rollout(1, 0, [4], [8, 6, 3], [-1.0, -2.0, -3.0], False, 0),
]


def test_answers_have_weight_and_columns_stand_at_their_tokens() -> None:
    batch = pack_rollouts(TWO, advantages=[torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0, 5.0])])
    assert batch.input_ids_T.tolist() == [5, 9, 7, 2, 4, 8, 6, 3]
    assert batch.targets_T[batch.weights_T > 0].tolist() == [7, 2, 8, 6, 3], "the end token is an action too"
    # The last prompt token predicts the first action; the last action predicts nothing.
    assert batch.weights_T.tolist() == [0, 1, 1, 0, 1, 1, 1, 0]
    assert batch.cu_seqlens_S1.tolist() == [0, 4, 8]
    actions = batch.actions
    assert actions is not None
    assert actions.segment_W.tolist() == [0, 0, 1, 1, 1]
    assert actions.sampler_logprobs_W.tolist() == [-0.5, -0.25, -1, -2, -3]
    assert actions.advantages_W.tolist() == [1, 2, 3, 4, 5]
    assert actions.old_logprobs_W.isnan().all() and actions.reference_logprobs_W.shape == (5,)
    assert batch.to(torch.device("cpu")).actions is not None


def test_columns_come_back_by_answer() -> None:
    rollouts = make_rollouts([(3, 4), (2, 1), (5, 6)])
    columns = made_up(rollouts, seed=1)
    actions = pack_rollouts(rollouts, old_values=columns).actions
    assert actions is not None
    for got, wanted in zip(split_by_answer(actions.old_values_W, rollouts), columns, strict=True):
        assert torch.equal(got, wanted)


def test_no_rollout_is_one_token_without_weight() -> None:
    batch = pack_rollouts([], old_logprobs=[])
    assert batch.input_ids_T.tolist() == [0] and not batch.weights_T.any()
    assert batch.actions is not None and all(len(getattr(batch.actions, name)) == 0 for name in batch.actions.__slots__)


@pytest.mark.parametrize(
    ("rollout", "message"),
    [
        (Rollout(7, 2, [], [3], [-1.0], True, 0), "rollout 2 of prompt 7: 0 prompt and 1 answer tokens"),
        (Rollout(7, 2, [3], [], [], True, 0), "1 prompt and 0 answer tokens"),
        (Rollout(7, 2, [3], [4, 5], [-1.0], True, 0), "1 sampler log-probabilities for 2 answer tokens"),
    ],
)
def test_broken_rollouts_are_named(rollout: Rollout, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack_rollouts([rollout])


def test_a_column_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"returns has \[2, 2\] numbers for answers of \[2, 3\] tokens"):
        pack_rollouts(TWO, returns=[torch.zeros(2), torch.zeros(2)])
