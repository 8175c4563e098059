"""All actors of a PPO stage: who there is, how they start, what the driver asks of them all.

roles_of(job) --reserve--> placement --Cast.spawned, start--> policy, critic, reference, rewards (groups), samplers
sample -> stream of unit handles -> judge: every unit to every scorer as soon as it is there
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from cluster.group import LOST, ActorGroup, Calls, GroupTimeout, Rendezvous, await_all, gather, spawn
from cluster.placement import Placement
from cluster.storage import Store
from cluster.weights import WeightSyncFailed
from configs.errors import RunFailed, user_error_inside
from configs.schema.ppo_stage import RewardSource
from jobs.ppo.job import Asked, Handle, InFlight, Judged, PpoJob
from jobs.ppo.learners import Critic, Policy
from jobs.ppo.offer import Announced, Synced
from jobs.ppo.prompts import PromptTable, asked_prompts, deal, requests_for
from jobs.ppo.roles import CRITIC, GOLD, POLICY, REFERENCE, ROLLOUT, reward_role
from jobs.ppo.sampler import Sampler
from jobs.ppo.scorers import FunctionScorer, Scorer

START_TRIES = 2
"""A host that was lost looks whole until Ray gives it up, and the first new engines are started there."""
SYNC_TRIES = 2
"""A sampler that refuses weights reloads and is offered them once more; twice is no accident."""


ANSWER_S = 2.0
"""In which an idle actor answers; of one that died on a living host Ray knows at once."""
DEATH_KNOWN_S = 40.0
"""Ray took 33 s to give up a host that was silent; until then its actors look as if they were busy."""


class SamplersLost(RunFailed):
    """An engine ended while it sampled or took weights; the policy has them still."""


class ActorsLost(RunFailed):
    """Some actor has died; the others of its group wait in vain."""


@dataclass
class Cast:
    """Running actors."""

    job: PpoJob
    placement: Placement
    policy: ActorGroup
    critic: ActorGroup | None
    reference: ActorGroup | None
    rewards: list[tuple[float, ActorGroup]]
    gold: ActorGroup | None
    samplers: ActorGroup

    @classmethod
    def spawned(cls, job: PpoJob, placement: Placement) -> "Cast":
        """Processes for all of them; `start` is next, and `end` whatever happens."""
        stage = job.stage

        def judge(role: str, source: RewardSource, model: Store | None) -> ActorGroup:
            if source.function is not None:
                return spawn(role, _actor(FunctionScorer), placement, {}, job, source.function)
            return spawn(role, _actor(Scorer), placement, {}, job, model, True)

        gold = None if stage.heldout is None else stage.heldout.gold
        return cls(
            job, placement,
            spawn(POLICY, _actor(Policy), placement, {}, job),
            spawn(CRITIC, _actor(Critic), placement, {}, job) if stage.needs_critic else None,
            spawn(REFERENCE, _actor(Scorer), placement, {}, job, job.reference, False) if stage.loads_reference else None,
            [
                (source.weight, judge(reward_role(number), source, job.rewards.get(number)))
                for number, source in enumerate(stage.rewards)
            ],
            None if gold is None else judge(GOLD, gold, job.gold),
            spawn(ROLLOUT, _actor(Sampler), placement, {}, job),
        )  # fmt: skip

    def start(self, checkpoint: int | None) -> None:
        """Starts all of them at once; policy and critic at the state after step `checkpoint`."""
        timeout_s = self.job.stage.resources.start_timeout_s
        starting = [(self.samplers, self.samplers.all(lambda sampler: sampler.start.remote()))]
        for group in self._groups():
            host, port = gather([(group, [group.ranks[0].meeting_point.remote()])], timeout_s, "starting")[0]
            learns = group is self.policy or group is self.critic
            known = (checkpoint,) if learns else ()
            meetings = [Rendezvous(host, port, number, len(group.ranks)) for number in range(len(group.ranks))]
            starting.append(
                (group, [rank.start.remote(at, *known) for rank, at in zip(group.ranks, meetings, strict=True)])
            )
        gather(starting, timeout_s, "starting")

    def _groups(self) -> list[ActorGroup]:
        """All but the samplers, which are no group: each is one alone."""
        found = [self.policy, self.critic, self.reference, *(group for _, group in self.rewards), self.gold]
        return [group for group in found if group is not None]

    @property
    def learners(self) -> list[ActorGroup]:
        """Policy, and critic where there is one."""
        return [group for group in (self.policy, self.critic) if group is not None]

    def learners_do(self, call: Callable[[Any], Any]) -> Calls:
        """The same of every rank of policy and critic."""
        return [(group, group.all(call)) for group in self.learners]

    def sample(self, table: PromptTable, asked: Asked) -> InFlight:
        """Begins to."""
        stage = self.job.stage
        prompts = asked_prompts(self.job, table, asked)
        seeds = (self.job.seed, "train", asked.step) if asked.split == "train" else (self.job.seed, "heldout")
        requests = requests_for(prompts, stage.algorithm.answers_per_prompt, *seeds)
        dealt = deal(requests, stage.unit_prompts, len(self.samplers.ranks))
        streams = [
            sampler.generate.options(num_returns="streaming").remote(units)
            for sampler, units in zip(self.samplers.ranks, dealt, strict=True)
            if units
        ]
        return InFlight(self.samplers, streams)

    def judge(self, asked: Asked, streams: list[Any]) -> Judged:
        """Sends every unit to all who judge, as soon as it is there; returns when the last was sampled.

        Answers to learn from get the critic's values; held-out ones are judged by the gold reward too. Where roles take turns,
        all units go to one role after the other, and the last of them is done when this returns.

        Raises:
            SamplersLost, GroupTimeout.
        """
        judged = Judged(asked, [], [(weight, []) for weight, _ in self.rewards], [], [])
        judging = [(group, handles) for (_, group), (_, handles) in zip(self.rewards, judged.scores, strict=True)]
        if self.reference is not None:
            judging.append((self.reference, judged.reference))
        if self.gold is not None and asked.split == "heldout":
            judging.append((self.gold, judged.gold))
        if self.critic is not None and asked.split == "train":
            judging.append((self.critic, judged.values))
        for units in [[*self._units(streams)]] if self.takes_turns else ([unit] for unit in self._units(streams)):
            judged.units.extend(units)
            for group, handles in judging:
                handles += self.turn(group, lambda rank, units=units: rank.score.remote(asked, units))
            if self.reference is None and self.job.stage.needs_reference:
                judged.reference.extend(
                    self.turn(self.policy, lambda rank, units=units: rank.base_logprobs.remote(units))
                )
        return judged

    def calls_in(self, judged: Judged) -> Calls:
        """Who owes what is in `judged`: policy and critic wait for it when they learn."""
        found = [(group, handles) for (_, group), (_, handles) in zip(self.rewards, judged.scores, strict=True)]
        found += [(self.reference or self.policy, judged.reference)]
        found += [(self.gold, judged.gold)] if self.gold is not None else []
        found += [(self.critic, judged.values)] if self.critic is not None else []
        return [*found, (self.policy, judged.old)]

    @property
    def takes_turns(self) -> bool:
        """Whether roles have the same cores, so that two at a time would only be in each other's way."""
        return self.job.stage.resources.placement == "colocated"

    def turn(self, group: ActorGroup, call: Callable[[Any], Any]) -> list[Any]:
        """Calls all ranks; where roles take turns, returns when they are done. What they raise is told by the handles."""
        handles = group.all(call)
        if self.takes_turns:
            await_all([(group, handles)], self.job.stage.resources.step_timeout_s, "a turn")
        return handles

    def _units(self, streams: list[Any]) -> Iterator[Handle]:
        waiting = list(streams)
        timeout_s = self.job.stage.resources.step_timeout_s
        while waiting:
            ready, _ = ray.wait(waiting, num_returns=1, timeout=timeout_s, fetch_local=False)
            if not ready:
                late = ", ".join(self.samplers.name_of(streams.index(stream)) for stream in waiting)
                raise GroupTimeout(f"sampling: {late} has finished no unit for {timeout_s:g} s")
            stream: Any = ready[0]
            try:
                yield next(stream)
            except StopIteration:
                waiting.remove(stream)
                try:
                    ray.get(stream.completed())
                except LOST as error:
                    name = self.samplers.name_of(streams.index(stream))
                    raise SamplersLost(f"{name} ended while it was sampling") from error

    def sync(self, version: int, probe: bool) -> Synced:
        """Brings the policy's weights to all samplers; what the worst of them says.

        Raises:
            WeightSyncFailed: a sampler has refused them twice.
            SamplersLost: one ended.
        """
        for attempt in range(1, SYNC_TRIES + 1):
            try:
                try:
                    said = self._offer(version, probe)
                except WeightSyncFailed as error:
                    if attempt == SYNC_TRIES:
                        raise user_error_inside(error) or error from None
                    self._reload_all()
                    continue
            except LOST as error:
                if lost := self.dead(ANSWER_S, [self.samplers]):
                    raise SamplersLost(f"{lost} ended while it took weights") from error
                raise
            return Synced(max(one.mismatch for one in said), min(one.position for one in said))
        raise AssertionError(version)

    def _offer(self, version: int, probe: bool) -> list[Synced]:
        resources = self.job.stage.resources
        timeout_s = resources.step_timeout_s
        if resources.transfer != "buckets":
            sent = self.policy.all(lambda rank: rank.send.remote(version, probe, self.samplers.ranks))
            return gather([(self.policy, sent)], timeout_s, "weight sync")[0]
        offers = self.policy.all(lambda rank: rank.announce.remote(version, probe))
        announced: Announced = gather([(self.policy, offers)], timeout_s, "gathering weights")[0]
        taking = self.samplers.all(lambda sampler: sampler.sync.remote(announced))
        return gather([(self.samplers, taking)], timeout_s, "weight sync")

    def _reload_all(self) -> None:
        """Those that have taken the version would refuse it a second time."""
        reloading = self.samplers.all(lambda sampler: sampler.reload.remote())
        gather([(self.samplers, reloading)], self.job.stage.resources.start_timeout_s, "reload")

    def restart_samplers(self) -> None:
        """New engines in the places of the old ones, with the weights of the model directory.

        Raises:
            ActorsLost: others than samplers are dead too, or the host of one is lost and there is no other.
        """
        resources = self.job.stage.resources
        self.samplers.end()
        if also := self.dead(ANSWER_S, self._groups()):
            raise ActorsLost(f"with it {also} ended")
        for attempt in range(1, START_TRIES + 1):
            if not self.placement.is_whole(resources.reserve_timeout_s):
                raise ActorsLost(
                    f"the host of an engine is lost, and for {resources.reserve_timeout_s:g} s there was no other"
                )
            self.samplers = spawn(ROLLOUT, _actor(Sampler), self.placement, {}, self.job)
            starting = self.samplers.all(lambda sampler: sampler.start.remote())
            try:
                gather([(self.samplers, starting)], resources.start_timeout_s, "starting engines again")
                return
            except LOST as error:
                self.samplers.end()
                also = self.dead(DEATH_KNOWN_S, self._groups())
                if also or attempt == START_TRIES:
                    raise ActorsLost(f"{also or 'an engine'} ended while engines started again") from error

    def busy_s(self) -> dict[str, dict[str, float]]:
        """What the busiest rank of each role has worked since the last call, and how long, by role."""
        asked = [(group, group.all(lambda rank: rank.busy_s.remote())) for group in [*self._groups(), self.samplers]]
        timeout_s = self.job.stage.resources.step_timeout_s
        said = {call[0].role: gather([call], timeout_s, "its clock") for call in asked}
        return {role: max(of_ranks, key=lambda busy: sum(busy.values())) for role, of_ranks in said.items()}

    def dead(self, within_s: float, groups: Sequence[ActorGroup] | None = None) -> str | None:
        """The name of an actor that turns out to be dead; returns at once where all answer, who is busy is waited for."""
        everybody = [*self._groups(), self.samplers] if groups is None else groups
        asked = {
            rank.busy_s.remote(): group.name_of(number)
            for group in everybody
            for number, rank in enumerate(group.ranks)
        }
        waiting, deadline = list(asked), time.monotonic() + within_s
        while waiting:
            ready, waiting = ray.wait(waiting, num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                return None
            try:
                ray.get(ready)
            except LOST:
                return asked[ready[0]]
        return None

    def end(self) -> None:
        """Ends all actors, whatever state they are in."""
        for group in [*self._groups(), self.samplers]:
            with contextlib.suppress(*LOST):
                group.end()


def _actor(role: type) -> Any:
    return ray.remote(max_restarts=0, max_task_retries=0)(role)
