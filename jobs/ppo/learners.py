"""The two models that learn: the policy from advantages, the critic from returns. Thin actors around a Learner.

    policy.old_logprobs(units) ──► old columns ─┐
    Judged (handles) ───────────────────────────┴─► policy.update, critic.update: experience -> estimate -> epochs x minibatches
    policy.probe, policy.buckets ──► samplers        save -> checkpoint of the role

Both cut the step's prompts by the same plan, so what one rank of each learns from is known from the numbers of tokens alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import ray
import torch.distributed as dist
from torch import Tensor

from cluster import kill_points
from cluster.group import Rendezvous, meeting_point
from cluster.weights import Bucket
from jobs.ppo.experience import Experience, Watched, estimate, fetch, watched
from jobs.ppo.job import Asked, Column, Handle, Judged, PpoJob
from jobs.ppo.losses import Totals, explained_variance, policy_loss_of_step, value_loss
from jobs.ppo.offer import Announced, Synced
from jobs.ppo.probe import Probe
from jobs.ppo.probing import probe_logprobs, probe_sequences
from jobs.ppo.prompts import read_prompts
from jobs.ppo.ranks import Clock, join, numbers_of_tokens, own_micro_batches, read_units, waits_in_host_memory
from jobs.ppo.rewards import RunningScale
from jobs.ppo.roles import CRITIC, POLICY
from jobs.ppo.samples import SampleWriter
from jobs.ppo.update import batches_of, learn, per_answer, plan_of, watched_sums, whiten
from jobs.train.adapters import without_adapters
from jobs.train.broadcast import announce_weights, weight_buckets
from jobs.train.checkpoint import CheckpointWriter, find_checkpoints, restore
from jobs.train.fsdp import COMPUTE_TYPES, build_mesh
from jobs.train.learner import Learner, LearnerSpec
from jobs.train.objectives.objective import EntropyLoss, LossFunction
from jobs.train.optimizer import learning_rate


@dataclass(frozen=True)
class Control:
    """Numbers of the driver that an update depends on."""

    step: int
    """From 0."""
    kl_coefficient: float
    scale: RunningScale
    """Of all scores before this step."""
    probe: bool
    """Whether samplers will be probed when they get the weights of this update."""


@dataclass(frozen=True)
class Updated:
    """What an update says: numbers over all ranks."""

    metrics: dict[str, float]
    scale: RunningScale
    """With this step's scores."""
    kl_total: float
    """Sum of k1 to the reference over all actions, old policy, in nats; 0 without a reference."""
    actions: float
    answers: int


class Policy:
    """A rank of the policy."""

    def __init__(self, job: PpoJob) -> None:
        kill_points.this_is(POLICY)
        self._job = job
        self._clock = Clock()

    def meeting_point(self) -> tuple[str, int]:
        return meeting_point()

    def start(self, rendezvous: Rendezvous, checkpoint: int | None) -> None:
        """Joins the group, loads, and takes over the state after step `checkpoint`; collective."""
        stage = self._job.stage
        join(rendezvous, stage.resources.policy, stage.resources)
        spec = LearnerSpec(
            self._job.policy, stage.precision, stage.optimizer, stage.activation_checkpointing,
            waits_in_host_memory(stage.resources.policy, stage.resources),
            trust_remote_code=self._job.trust_remote_code, seed=self._job.seed, lora=stage.lora,
        )  # fmt: skip
        self.learner, self._checkpoints = _loaded(self._job, spec, rendezvous.ranks, POLICY, checkpoint)
        self._samples = SampleWriter(self._job)
        self._probe_text = probe_sequences(read_prompts(self._job.shards, "train").rows)
        self._probed: Tensor | None = None  # log-probabilities of the probe by the weights that samplers have

    def old_logprobs(self, units: Sequence[Handle], step: int) -> Column:
        """Of this rank's answers, in the micro-batches that the first epoch learns from: its first ratios are exactly 1."""
        algorithm = self._job.stage.algorithm
        answers = dict(sorted(read_units(units).items()))
        experience = Experience(answers, {}, {}, {}, {}, algorithm.answers_per_prompt)
        plan = plan_of(self._job, experience, step)
        micro_batches = [
            experience.rollouts(batch) for minibatch in plan.of_rank(dist.get_rank()) for batch in minibatch
        ]
        with self._clock.working("old_logprobs"):
            return numbers_of_tokens(self.learner, micro_batches, algorithm.temperature, algorithm.answers_per_prompt)

    def logprobs(self, units: Sequence[Handle]) -> Column:
        """Of this rank's answers in some units, for evaluations; collective."""
        return self._logprobs(units, "heldout")

    def _logprobs(self, units: Sequence[Handle], doing: str) -> Column:
        algorithm = self._job.stage.algorithm
        with self._clock.working(doing):
            micro_batches = own_micro_batches(read_units(units), self._job.stage.micro_batch_tokens)
            return numbers_of_tokens(self.learner, micro_batches, algorithm.temperature, algorithm.answers_per_prompt)

    def base_logprobs(self, units: Sequence[Handle]) -> Column:
        """As `logprobs`, by the model below the adapters: the policy is its own reference."""
        with without_adapters(self.learner.sharded.module):
            return self._logprobs(units, "judge")

    def update(self, judged: Judged, control: Control) -> Updated:
        """Learns from a step's answers; collective. The samples of the step are written before the first weight changes."""
        job = self._job
        algorithm = job.stage.algorithm
        experience = fetch(judged, algorithm.answers_per_prompt, job.stage.staleness)
        with self._clock.working("update"):
            scale = control.scale.including(experience.all_scores())
            plan = plan_of(job, experience, control.step)
            learnt = estimate(
                experience, plan.prompts_of_rank(dist.get_rank()), algorithm, scale, control.kl_coefficient
            )
            if dist.get_rank() == 0:
                self._samples.write(judged.asked, experience)
            totals = watched_sums(self.learner, learnt, experience)
            advantages = whiten(self.learner, learnt.advantages) if algorithm.whitens else learnt.advantages
            batches = batches_of(experience, plan, learnt, advantages)
            waits = algorithm.critic_warmup_steps  # its own warm-up begins with its first step
            learns = control.step >= waits
            rate = learning_rate(control.step - waits, job.total_steps - waits, job.stage.optimizer) if learns else 0.0

            def loss_of(minibatch: Totals) -> LossFunction | EntropyLoss:
                return policy_loss_of_step(algorithm, control.kl_coefficient, minibatch)

            if control.probe and self._probed is None:
                self._probed = self._probe_logprobs()
            metrics: dict[str, float] = {}
            if learns:
                metrics = learn(self.learner, batches, loss_of, rate, job, control.step, algorithm.temperature)
            return Updated(
                {
                    **metrics, "learning_rate": rate, **per_answer(totals),
                    **{f"reward/{name}": mean for name, mean in experience.source_means().items()},
                },
                scale, totals.get("kl", 0.0), totals["actions"], int(totals["answers"]),
            )  # fmt: skip

    def watch(self, judged: Judged) -> Watched:
        """What there is to say about answers that nobody learns from; one rank does it alone, and keeps the answers."""
        stage = self._job.stage
        experience = fetch(judged, stage.algorithm.answers_per_prompt, stage.staleness)
        self._samples.write(judged.asked, experience)
        return watched(experience)

    def announce(self, version: int, probe: bool) -> Announced | None:
        """Puts the weights into the object store, bucket by bucket; on rank 0 what samplers need to take them. Collective."""
        with self._clock.working("sync"):
            manifest = announce_weights(self.learner, version, COMPUTE_TYPES[self._job.stage.precision])
            buckets: list[Bucket] = []
            for bucket in weight_buckets(self.learner, manifest):
                buckets.append(replace(bucket, data=ray.put(bucket.data)))
                kill_points.reach("ppo_announcing")
            offered = self._next_probe(probe)
        if dist.get_rank() != 0:
            return None
        return Announced(manifest, buckets, [] if offered is None else [ray.put(offered)])

    def send(self, version: int, probe: bool, samplers: Sequence[Handle]) -> list[Synced] | None:
        """Sends the weights from GPU to GPU; on rank 0 what each sampler says. Collective. Not run: no GPU here."""
        from jobs.ppo.gpu_sync import send_to

        with self._clock.working("sync"):
            manifest = announce_weights(self.learner, version, COMPUTE_TYPES[self._job.stage.precision])
            return send_to(samplers, self.learner, manifest, self._next_probe(probe), self._job.stage.resources)

    def _next_probe(self, wanted: bool) -> Probe | None:
        """What samplers are to compute with the present weights, and with those before where that is known; on every rank."""
        before, self._probed = self._probed, None
        if not wanted:
            return None
        self._probed = self._probe_logprobs()
        return Probe(self._probe_text, self._probed, self._probed if before is None else before)

    def _probe_logprobs(self) -> Tensor:
        return probe_logprobs(self.learner, self._probe_text, self._job.stage.micro_batch_tokens)

    def save(self, step: int, history: list[dict[str, float]]) -> None:
        """Begins to write the state after `step` steps; returns when the one before is committed."""
        self._checkpoints.save(self.learner, step, history)

    def settle(self) -> None:
        """Returns when what was saved is committed."""
        self._checkpoints.wait()

    def export(self) -> None:
        """Writes the model, and the adapters where it has some; collective."""
        self.learner.export(self._job.output.below("model"))
        if self._job.stage.lora is not None:
            self.learner.export_adapters(self._job.output.below("adapter"))

    def busy_s(self) -> dict[str, float]:
        return self._clock.take()


class Critic:
    """A rank of the critic."""

    def __init__(self, job: PpoJob) -> None:
        kill_points.this_is(CRITIC)
        self._job = job
        self._clock = Clock()

    def meeting_point(self) -> tuple[str, int]:
        return meeting_point()

    def start(self, rendezvous: Rendezvous, checkpoint: int | None) -> None:
        """As Policy.start."""
        stage = self._job.stage
        join(rendezvous, stage.resources.critic, stage.resources)
        assert self._job.critic is not None
        spec = LearnerSpec(
            self._job.critic, stage.precision, stage.critic_optimizer, stage.activation_checkpointing,
            waits_in_host_memory(stage.resources.critic, stage.resources), head="values",
            trust_remote_code=self._job.trust_remote_code, seed=self._job.seed,
        )  # fmt: skip
        self._learner, self._checkpoints = _loaded(self._job, spec, rendezvous.ranks, CRITIC, checkpoint)

    def score(self, asked: Asked, units: Sequence[Handle]) -> Column:
        """The value of the state before every token of this rank's answers in some units; collective."""
        del asked
        stage = self._job.stage
        with self._clock.working("judge"):
            micro_batches = own_micro_batches(read_units(units), stage.micro_batch_tokens)
            return numbers_of_tokens(self._learner, micro_batches, 1.0, stage.algorithm.answers_per_prompt)

    def update(self, judged: Judged, control: Control) -> Updated:
        """Learns from a step's returns; collective."""
        job = self._job
        algorithm = job.stage.algorithm
        experience = fetch(judged, algorithm.answers_per_prompt, job.stage.staleness)
        with self._clock.working("update"):
            scale = control.scale.including(experience.all_scores())
            plan = plan_of(job, experience, control.step)
            learnt = estimate(
                experience, plan.prompts_of_rank(dist.get_rank()), algorithm, scale, control.kl_coefficient
            )
            batches = batches_of(experience, plan, learnt, learnt.advantages)
            rate = learning_rate(control.step, job.total_steps, job.stage.critic_optimizer)

            def loss_of(minibatch: Totals) -> LossFunction:
                return lambda values_W, batch: value_loss(values_W, batch, algorithm, minibatch)

            metrics = learn(self._learner, batches, loss_of, rate, job, control.step, 1.0)
            metrics["value/explained_variance"] = explained_variance(metrics)
            named = {name if "/" in name else f"value/{name}": value for name, value in metrics.items()}
            named.pop("value/entropy", None)
            return Updated(named, scale, 0.0, 0.0, 0)

    def save(self, step: int, history: list[dict[str, float]]) -> None:
        """As Policy.save."""
        self._checkpoints.save(self._learner, step, history)

    def settle(self) -> None:
        self._checkpoints.wait()

    def busy_s(self) -> dict[str, float]:
        return self._clock.take()


def _loaded(
    job: PpoJob, spec: LearnerSpec, ranks: int, role: str, checkpoint: int | None
) -> tuple[Learner, CheckpointWriter]:
    """The Learner at the state after step `checkpoint`, or at its start, and who writes its states; collective."""
    learner = Learner(spec, build_mesh(ranks))
    learner.load()
    if checkpoint is not None:
        restore(learner, [found for found in find_checkpoints(job.artifact, role) if found.step == checkpoint][-1])
    return learner, CheckpointWriter(job.artifact, job.attempt, job.stage.checkpoints.keep, role)
