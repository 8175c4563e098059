"""What is fetched of a step: answers of the weights that were asked for. Handles are what they refer to."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cluster.weights import WeightSyncFailed
from configs.schema.ppo import PpoAlgorithm
from jobs.ppo import experience
from jobs.ppo.experience import Experience, estimate, fetch
from jobs.ppo.job import Asked, Column, Judged
from jobs.ppo.progress import summary
from jobs.ppo.rewards import RunningScale
from jobs.ppo.update import per_answer, watched_sums
from jobs.records import Rollout


def judged(split: str, step: int, versions: list[int]) -> Judged:
    units = [[Rollout(prompt, 0, [1], [5], [-1.0], True, version)] for prompt, version in enumerate(versions)]
    scores = dict.fromkeys(range(len(versions)), 1.0)
    return Judged(Asked(split, step), units, [(1.0, [scores])], [], [])  # pyright: ignore[reportArgumentType]


@pytest.fixture(autouse=True)
def _no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experience.ray, "get", lambda handles: handles)


@pytest.mark.parametrize(
    ("split", "staleness", "versions", "wrong"),
    [
        ("train", 0, [4, 4], None), ("train", 0, [4, 3], 3), ("train", 0, [5, 4], 5), ("train", 1, [4, 3], None),
        ("train", 1, [2, 4], 2), ("heldout", 1, [4, 4], None), ("heldout", 1, [4, 3], 3),
    ],
)  # fmt: skip
def test_answers_of_other_weights_are_refused(
    split: str, staleness: int, versions: list[int], wrong: int | None
) -> None:
    """One of two engines has missed the sync after step 4, or is ahead of it."""
    found = judged(split, 4, versions)
    if wrong is None:
        assert len(fetch(found, 1, staleness).answers) == 2
        return
    with pytest.raises(
        WeightSyncFailed, match=rf"of {split} after step 4 was answered with weights of version {wrong}"
    ):
        fetch(found, 1, staleness)


def test_a_kl_that_nobody_measured_is_no_number() -> None:
    """Log-probabilities -0.5 under the policy, -0.75 under the reference, where there is one."""
    alone: Any = SimpleNamespace(sums_over_ranks=lambda sums_N: sums_N.tolist())
    settings = PpoAlgorithm(estimator="rloo", answers_per_prompt=2)

    def numbers(reference: Column) -> dict[str, float]:
        answers = {0: [Rollout(0, sample, [1], [5], [-1.0], True, 0) for sample in range(2)]}
        old = {number: np.array([-0.5], dtype=np.float32) for number in range(2)}
        found = Experience(answers, {0: 1.0, 1: 2.0}, reference, {}, old, 2)
        learnt = estimate(found, [0], settings, RunningScale(), 0.1)
        return per_answer(watched_sums(alone, learnt, found))

    measured = numbers({number: np.array([-0.75], dtype=np.float32) for number in range(2)})
    assert measured["kl/per_answer"] == measured["kl/per_token"] == 0.25
    assert measured["reward/score"] == 1.5
    unmeasured = numbers({})
    assert unmeasured == {name: value for name, value in measured.items() if not name.startswith("kl/")}
    assert "kl_per_answer" not in summary([unmeasured]) and summary([measured])["kl_per_answer"] == 0.25
