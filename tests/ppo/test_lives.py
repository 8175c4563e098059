"""When a run goes on after a loss and when it ends: by made-up lives, each of which ends at some step by some loss."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import OutOfMemoryError

from cluster.group import GroupTimeout
from cluster.placement import NoRoom
from configs.errors import RunFailed
from configs.schema.ppo_stage import PpoStage
from jobs.ppo import driver
from jobs.ppo.cast import ActorsLost
from jobs.ppo.driver import ActorRaised, Listener, run_ppo
from jobs.ppo.job import Asked
from jobs.train.loop import Ending
from tests.world.toy_ppo import toy_ppo_stage

Lives = list[tuple[BaseException | None, int]]
"""How each life ends (None: at the end of the run), and after which saved step."""
RESERVED = NoRoom("no room for policy 1 x (1 CPU)")
LOST = ActorsLost("policy on 10.0.0.3 ended")


def live(monkeypatch: pytest.MonkeyPatch, lives: Lives) -> tuple[Any, list[str]]:
    """What became of the run, and what it said. The stage allows three losses."""
    left, said, saved = list(lives), [], [0]

    @contextmanager
    def reserve(*wanted: object) -> Iterator[None]:
        if left[0][0] is RESERVED:
            left.pop(0)
            raise RESERVED
        yield

    def one_life(*arguments: object) -> Ending:
        ended, saved[0] = left.pop(0)
        if ended is not None:
            raise ended
        return Ending.FINISHED

    monkeypatch.setattr(driver, "reserve", reserve)
    monkeypatch.setattr(driver, "_one_life", one_life)
    monkeypatch.setattr(driver, "resume", lambda job: SimpleNamespace(step=saved[0]))
    stage = PpoStage.model_validate({**toy_ppo_stage(), "checkpoints": {"max_failures": 3}})
    job: Any = SimpleNamespace(stage=stage, name="ppo")
    try:
        return run_ppo(job, Listener(lambda metrics: None, said.append, lambda: False)), said
    except (RunFailed, NoRoom, ValueError) as error:
        return error, said


def test_losses_are_counted_since_the_last_saved_step(monkeypatch: pytest.MonkeyPatch) -> None:
    ended, said = live(monkeypatch, [*((LOST, step) for step in (0, 0, 0, 5, 5, 5, 6)), (None, 9)])
    assert ended is Ending.FINISHED and len(said) == 7
    ended, said = live(monkeypatch, [*((LOST, 5) for _ in range(4)), (None, 9)])
    assert isinstance(ended, RunFailed) and "actors were lost 4 times, the last time: policy on 10.0.0.3" in str(ended)


@pytest.mark.parametrize("lost", [GroupTimeout("update: critic on 10.0.0.4"), OutOfMemoryError("a worker was ended")])
def test_every_kind_of_loss_is_one(monkeypatch: pytest.MonkeyPatch, lost: BaseException) -> None:
    ended, said = live(monkeypatch, [(lost, 1), (None, 9)])
    assert ended is Ending.FINISHED and str(lost) in said[0]
    ended, _ = live(monkeypatch, [*((lost, 1) for _ in range(4)), (None, 9)])
    assert ("raise resources.step_timeout_s" in str(ended)) == isinstance(lost, GroupTimeout)


def test_a_cluster_without_room_is_waited_for_only_after_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    ended, said = live(monkeypatch, [(RESERVED, 0), (None, 9)])
    assert ended is RESERVED and not said
    ended, said = live(monkeypatch, [(LOST, 1), (RESERVED, 1), (None, 9)])
    assert ended is Ending.FINISHED and "no room for policy" in said[1]


def test_what_a_living_actor_raises_twice_is_no_accident(monkeypatch: pytest.MonkeyPatch) -> None:
    bug = ValueError("in an actor\n  shapes do not fit\n")
    ended, said = live(monkeypatch, [(ActorRaised(bug), 1), (ActorRaised(ConnectionError("reset")), 1), (None, 9)])
    assert ended is Ending.FINISHED and "(shapes do not fit)" in said[0]
    ended, said = live(monkeypatch, [(ActorRaised(bug), 1), (ActorRaised(bug), 2), (None, 9)])
    assert ended is Ending.FINISHED and len(said) == 2
    ended, said = live(monkeypatch, [(ActorRaised(bug), 1), (ActorRaised(bug), 1), (None, 9)])
    assert ended is bug and len(said) == 1


def test_streams_of_engines_that_were_replaced_are_not_waited_for() -> None:
    """The new ones are asked for the same answers, and nobody is started again."""
    old, new, asked = object(), object(), Asked("train", 3)
    cast: Any = SimpleNamespace(
        job=SimpleNamespace(stage=PpoStage.model_validate(toy_ppo_stage())), samplers=new,
        sample=lambda table, asked: SimpleNamespace(samplers=new, streams=["of the new"]), judge=lambda asked, streams: (asked, streams),
    )  # fmt: skip
    silent = Listener(lambda metrics: None, lambda sentence: None, lambda: False)
    table: Any = None
    for samplers, streams in ((old, ["of the new"]), (new, ["of the old"])):
        in_flight: Any = SimpleNamespace(samplers=samplers, streams=["of the old"])
        assert driver._judged(cast, table, asked, in_flight, silent) == (asked, streams)
