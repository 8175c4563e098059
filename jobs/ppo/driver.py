"""The loop of PPO: handles and numbers only, no tensor passes through here.

    reserve ─► start ─► for each step:
        sample ─► judge (reference, rewards, values: every unit as soon as it is there) ─► old log-probabilities
               ─► update policy and critic ─► weights to the samplers ─► report ─► held-out ─► checkpoint if due
    export

A step is a transaction: prompts, seeds and minibatches are functions of (run, step), so whatever is lost inside it is done
again and gives the same. A lost engine costs the answers of its step; a lost learner everything since the last checkpoint.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ray.exceptions import RayTaskError

from cluster import kill_points
from cluster.group import LOST, GroupTimeout, gather
from cluster.placement import NoRoom, reserve
from configs.errors import RunFailed, user_error_inside
from jobs.ppo.cast import ANSWER_S, DEATH_KNOWN_S, ActorsLost, Cast, SamplersLost
from jobs.ppo.health import HealthCheck
from jobs.ppo.heldout import evaluate, for_people
from jobs.ppo.job import Asked, InFlight, Judged, PpoJob
from jobs.ppo.learners import Control, Updated
from jobs.ppo.offer import Synced
from jobs.ppo.progress import Progress, after_step, resume
from jobs.ppo.prompts import PromptTable, read_prompts
from jobs.ppo.roles import roles_of
from jobs.train.loop import Ending


@dataclass(frozen=True)
class Listener:
    """What the driver tells, and how it hears that it shall stop."""

    metrics: Callable[[dict[str, float]], None]
    say: Callable[[str], None]
    stop_asked: Callable[[], bool]


def run_ppo(job: PpoJob, listener: Listener) -> Ending:
    """Trains to the end, or until it is asked to stop. Ray is connected.

    Raises:
        NoRoom: for the roles, at the start.
        RunFailed and its like: an actor says that it cannot go on, or actors were lost more often than
            `checkpoints.max_failures` since the last step that was saved; what they have raised, where it is the same twice
            without a step in between.
    """
    stage, losses, reached, raised = job.stage, 0, 0, ("", 0)
    resources = stage.resources
    while True:
        try:
            with reserve(
                roles_of(stage), resources.placement, resources.strategy, resources.reserve_timeout_s
            ) as placement:
                return _one_life(job, placement, listener)
        except NoRoom as lost:
            if not losses:
                raise
            why = lost
        except (ActorsLost, SamplersLost, GroupTimeout, *LOST) as lost:
            why = lost
        step = resume(job).step
        if isinstance(why, ActorRaised):
            if (str(why), step) == raised:
                raise why.error from None
            raised = str(why), step
        losses, reached = (1, step) if step > reached else (losses + 1, reached)
        if losses > stage.checkpoints.max_failures:
            slow = ". If it does need that long, raise resources.step_timeout_s, or start_timeout_s for its start"
            mend = slow if isinstance(why, GroupTimeout) else ""
            raise RunFailed(f"{job.name}: actors were lost {losses} times, the last time: {why}{mend}") from why
        listener.say(f"an actor was lost ({str(why).splitlines()[0]}); going on from the last checkpoint")


class ActorRaised(ActorsLost):
    """An actor that lives has raised what is no error of ours: the network between ranks, an object that was lost, a bug."""

    def __init__(self, error: BaseException) -> None:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        super().__init__(lines[-1] if lines else type(error).__name__)
        self.error = error


def _one_life(job: PpoJob, placement: Any, listener: Listener) -> Ending:
    """From the newest checkpoint to the end, or to the loss of an actor."""
    progress = resume(job)
    cast = Cast.spawned(job, placement)
    try:
        cast.start(progress.step or None)
        return _steps(job, cast, progress, listener)
    except (RayTaskError, *LOST) as error:
        # Where one rank dies, those that wait for it raise what torch.distributed says, at times before Ray knows.
        ours = user_error_inside(error)
        if lost := cast.dead(DEATH_KNOWN_S if ours is None else ANSWER_S):
            raise ActorsLost(f"{lost} ended") from error
        if ours is not None:
            raise ours from None
        raise ActorRaised(error) from error
    finally:
        cast.end()


OF_ANSWERS = ("sample", "judge", "old_logprobs", "update")
"""What roles do with the answers of a step; weights on their way have no tokens, and held-out answers are others."""


@dataclass
class _Clock:
    """When the phases of a step ended."""

    began: float = field(default_factory=time.perf_counter)
    cpu_began: float = field(default_factory=time.process_time)
    phases: dict[str, float] = field(default_factory=dict)
    _last: float = 0.0

    def ended(self, phase: str) -> None:
        now = time.perf_counter()
        self.phases[f"time/{phase}_s"] = now - (self._last or self.began)
        self._last = now

    def numbers(self, busy_s: dict[str, dict[str, float]], tokens: float) -> dict[str, float]:
        step_s = time.perf_counter() - self.began
        idle = {f"idle/{role}": max(0.0, 1 - sum(busy.values()) / step_s) for role, busy in busy_s.items()}
        busy = {f"busy/{role}/{doing}_s": s for role, of_role in busy_s.items() for doing, s in of_role.items()}
        cpu_s = time.process_time() - self.cpu_began
        rates = {
            f"tokens_per_s/{role}/{doing}": tokens / s
            for role, of_role in busy_s.items()
            for doing, s in of_role.items()
            if doing in OF_ANSWERS and s > 0
        }
        return {
            **self.phases, **idle, **busy, **rates, "time/step_s": step_s, "time/driver_cpu_s": cpu_s,
            "tokens_per_s": tokens / step_s, "tokens": tokens,
        }  # fmt: skip


def _steps(job: PpoJob, cast: Cast, progress: Progress, listener: Listener) -> Ending:
    """The loop."""
    stage, total = job.stage, job.total_steps
    train, heldout = read_prompts(job.shards, "train"), read_prompts(job.shards, "heldout") if stage.heldout else None
    if heldout is not None and stage.heldout and len(heldout) < stage.heldout.prompts:
        listener.say(
            f"heldout.prompts asks for {stage.heldout.prompts}, the data hold {len(heldout)} out: all of them are answered"
        )
    health = HealthCheck(stage, listener.say, progress.history)
    if progress.step:
        _synced(cast, progress.step, True, listener)
        cast.busy_s()
    elif heldout is not None:
        progress = _measured(job, cast, heldout, progress, listener)
    clock, nothing = _Clock(), InFlight(cast.samplers, [])
    sampling = cast.sample(train, Asked("train", progress.step)) if progress.step < total else nothing
    while progress.step < total:
        asked = Asked("train", progress.step)
        last = progress.step + 1 == total
        judged = _judged(cast, train, asked, sampling, listener)
        clock.ended("sample")
        kill_points.reach("ppo_sampled")
        if stage.staleness and not last:
            sampling = cast.sample(train, Asked("train", progress.step + 1))
        updated = _update(cast, judged, progress)
        clock.ended("update")
        kill_points.reach("ppo_updated")
        synced = _synced(cast, progress.step + 1, stage.health.probes(progress.step), listener)
        clock.ended("sync")
        probed = {"sync/mismatch": synced.mismatch, "sync/position": synced.position}
        seen = {name: value for name, value in probed.items() if not math.isnan(value)}
        numbers = clock.numbers(cast.busy_s(), updated.actions)
        progress = after_step(progress, updated, stage, {**updated.metrics, **seen})
        listener.metrics({**progress.history[-1], **numbers})
        health.check(progress.history[-1])
        if heldout is not None and stage.heldout and (last or progress.step % stage.heldout.every_steps == 0):
            progress = _measured(job, cast, heldout, progress, listener)
            health.check_heldout(progress.history)
        clock = _Clock()  # of the next step, whose answers are sampled while this one is saved
        if not stage.staleness and not last:
            sampling = cast.sample(train, Asked("train", progress.step))
        stopping = listener.stop_asked() and not last
        if last or stopping or progress.step % stage.checkpoints.every_steps == 0:
            _save(cast, progress)
            clock.ended("save")
            kill_points.reach("ppo_saving")
        if stopping:
            _settle(cast)
            return Ending.STOPPED
    _settle(cast)
    exporting = cast.policy.all(lambda rank: rank.export.remote())
    gather([(cast.policy, exporting)], stage.resources.start_timeout_s, "export")
    job.output.write_json("history.json", list(progress.history))
    return Ending.FINISHED


def _judged(cast: Cast, table: PromptTable, asked: Asked, sampling: InFlight, listener: Listener) -> Judged:
    """The answers of a step or an evaluation; where an engine ends meanwhile, all of them are sampled again by new engines."""
    for _ in range(1 + cast.job.stage.checkpoints.max_failures):
        try:
            if sampling.samplers is not cast.samplers:  # lost since, and there are new ones already
                sampling = cast.sample(table, asked)
            return cast.judge(asked, sampling.streams)
        except SamplersLost as lost:
            listener.say(f"{lost}; starting engines again, sampling again")
            cast.restart_samplers()
            if asked.step:
                cast.sync(asked.step, probe=True)
    raise ActorsLost(f"after step {asked.step}: engines ended in every attempt")


def _synced(cast: Cast, version: int, probe: bool, listener: Listener) -> Synced:
    """What samplers say of the weights they took; where an engine ends meanwhile, new ones take them."""
    try:
        return cast.sync(version, probe)
    except SamplersLost as lost:
        listener.say(f"{lost}; starting engines again")
        cast.restart_samplers()
        return cast.sync(version, probe=True)


def _update(cast: Cast, judged: Judged, progress: Progress) -> Updated:
    """Policy and critic learn at the same time, or in turn; their numbers in one."""
    stage, step = cast.job.stage, progress.step
    judged = replace(judged, old=cast.turn(cast.policy, lambda rank: rank.old_logprobs.remote(judged.units, step)))
    control = Control(step, progress.kl.coefficient, progress.scale, stage.health.probes(step))
    learning = [(group, cast.turn(group, lambda rank: rank.update.remote(judged, control))) for group in cast.learners]
    done: list[Updated] = gather(learning, stage.resources.step_timeout_s, "update", needs=cast.calls_in(judged))
    metrics = {**done[-1].metrics, **done[0].metrics}  # of the critic, where there is one, and of the policy
    return replace(done[0], metrics=metrics)


def _measured(job: PpoJob, cast: Cast, heldout: PromptTable, progress: Progress, listener: Listener) -> Progress:
    """With held-out numbers. Its work is between two steps and no part of the next one's."""
    asked = Asked("heldout", progress.step)
    judged = _judged(cast, heldout, asked, cast.sample(heldout, asked), listener)
    progress = evaluate(job, cast, judged, progress)
    cast.busy_s()
    listener.metrics({"step": float(progress.step), **for_people(progress.history[-1])})
    return progress


def _save(cast: Cast, progress: Progress) -> None:
    """Begins to. Not before both have committed what they saved last: one that is ahead would prune what both have."""
    _settle(cast)
    history = list(progress.history)
    saving = cast.learners_do(lambda rank: rank.save.remote(progress.step, history))
    gather(saving, cast.job.stage.resources.step_timeout_s, "checkpoint")


def _settle(cast: Cast) -> None:
    """Returns when what was saved is committed."""
    settling = cast.learners_do(lambda rank: rank.settle.remote())
    gather(settling, cast.job.stage.resources.step_timeout_s, "checkpoint")
