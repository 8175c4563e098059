"""How far a run has come: the numbers that the driver holds, all of them in the history that every checkpoint carries.

checkpoints of policy and critic --newest step that both have--> Progress --after_step--> Progress -> history -> checkpoint
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from cluster.lease import check_attempt
from configs.schema.ppo_stage import PpoStage
from jobs.ppo.job import PpoJob
from jobs.ppo.kl import KlState, kl_in_unit, next_coefficient
from jobs.ppo.learners import Updated
from jobs.ppo.rewards import RunningScale
from jobs.ppo.roles import CRITIC, POLICY
from jobs.ppo.sample_files import DIRECTORY, step_of
from jobs.train.checkpoint import Checkpoint, find_checkpoints, remove

SCALE = "state/reward_"
COEFFICIENT = "state/kl_coefficient"


@dataclass(frozen=True)
class Progress:
    """Of a run that has done `step` steps."""

    step: int
    kl: KlState
    scale: RunningScale
    history: tuple[dict[str, float], ...]
    """Of every step, and of evaluations between them."""

    def with_entry(self, entry: dict[str, float]) -> "Progress":
        """With what an evaluation says, as part of the last step's entry or one of its own before the first."""
        if self.history and self.history[-1]["step"] == entry["step"]:
            return Progress(self.step, self.kl, self.scale, (*self.history[:-1], {**self.history[-1], **entry}))
        return Progress(self.step, self.kl, self.scale, (*self.history, entry))


def after_step(before: Progress, updated: Updated, stage: PpoStage, metrics: dict[str, float]) -> Progress:
    """With one step more: the KL coefficient of the next, scores seen so far, a line of history."""
    adaptive, kl = stage.algorithm.kl.adaptive, before.kl
    if adaptive is not None and before.step >= stage.algorithm.critic_warmup_steps:
        seen = kl_in_unit(updated.kl_total, updated.answers, updated.actions, adaptive)
        kl = next_coefficient(before.kl, adaptive, seen, updated.answers)
    entry = {
        "step": float(before.step + 1), "kl/coefficient": before.kl.coefficient, **metrics,
        COEFFICIENT: kl.coefficient, **{f"{SCALE}{name}": value for name, value in asdict(updated.scale).items()},
    }  # fmt: skip
    return Progress(before.step + 1, kl, updated.scale, (*before.history, entry))


def resume(job: PpoJob) -> Progress:
    """Where the run goes on: after the newest step that all learners have a committed checkpoint of.

    What one learner alone has of later steps is removed: they are done again, and may come out otherwise where answers are
    sampled a step behind or in bf16. So are samples of later steps. A policy and a critic of one step must have learnt from
    the same answers.

    Raises:
        LeaseLost: another attempt works on the run.
    """
    roles = (POLICY, CRITIC) if job.stage.needs_critic else (POLICY,)
    found = {role: find_checkpoints(job.artifact, role) for role in roles}
    step = max((step for step in _common(found) if _of_one_life(found, step)), default=0)
    for alone in (one for of_role in found.values() for one in of_role if one.step > step):
        check_attempt(job.artifact, job.attempt)
        remove(alone)
    _forget_samples_after(job, step)
    if not step:
        return Progress(0, KlState(job.stage.algorithm.kl.coef), RunningScale(), ())
    history = tuple([one for one in found[POLICY] if one.step == step][-1].history())
    last = next(entry for entry in reversed(history) if COEFFICIENT in entry)
    scale = {name.removeprefix(SCALE): value for name, value in last.items() if name.startswith(SCALE)}
    return Progress(step, KlState(last[COEFFICIENT]), RunningScale(**scale), history)


def _forget_samples_after(job: PpoJob, step: int) -> None:
    """No policy that is left has given these answers; and the newest ones are what people are shown."""
    for name in job.artifact.names(DIRECTORY):
        if (step_of(name) or 0) > step:
            check_attempt(job.artifact, job.attempt)
            job.artifact.remove(DIRECTORY, name)


def _common(found: Mapping[str, Sequence[Checkpoint]]) -> set[int]:
    return set.intersection(*({one.step for one in of_role} for of_role in found.values()))


def _of_one_life(found: Mapping[str, Sequence[Checkpoint]], step: int) -> bool:
    """Whether all roles have the same history at a step: what an ended life commits late stands beside that of the next."""
    told = {json.dumps(one.history()) for of_role in found.values() for one in of_role if one.step == step}
    return len(told) == 1


def summary(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What the record of a finished run says: its first and last rewards, and held-out numbers before and after."""
    steps = [entry for entry in history if "reward/score" in entry]
    metrics = {"steps": len(steps), "first_reward_score": steps[0]["reward/score"]}
    for name in ("reward/score", "kl/per_answer", "answers/tokens", "answers/end_rate"):
        if name in steps[-1]:
            metrics[name.replace("/", "_")] = steps[-1][name]
    measured = [entry for entry in history if "heldout/score" in entry]
    for name in ("heldout/score", "heldout/gold", "heldout/kl_per_answer"):
        if measured and name in measured[0]:
            metrics |= {f"{name}_before": measured[0][name], name: measured[-1][name]}
    return metrics
