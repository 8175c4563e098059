"""Frozen models that judge: the reference gives log-probabilities, a reward model gives scores, a function gives scores.

units of answers --as soon as they are there--> Scorer rank x N --> Column | Scores
"""

from collections.abc import Sequence
from typing import Any, cast

from cluster import kill_points
from cluster.group import Rendezvous, meeting_point
from cluster.storage import Store
from jobs.corpus.segments import load_tokenizer, read_tokenizer_files
from jobs.corpus.template import end_token_ids, written_end
from jobs.ppo.job import Asked, Column, Handle, PpoJob, Scores
from jobs.ppo.prompts import PromptTable, asked_prompts, read_prompts
from jobs.ppo.ranks import (
    Clock,
    answer_number,
    join,
    numbers_of_tokens,
    own_micro_batches,
    read_units,
    scores_of_answers,
    waits_in_host_memory,
)
from jobs.ppo.reward_functions import TrainerState, call_reward, import_function
from jobs.ppo.roles import REFERENCE, REWARD
from jobs.records import PromptRow, Rollout
from jobs.train.fsdp import build_mesh
from jobs.train.learner import Learner, LearnerSpec


class Scorer:
    """A rank of the reference or of a reward model."""

    def __init__(self, job: PpoJob, model: Store, judges: bool) -> None:
        """Args:
        judges: whether it is a reward model.
        """
        self._job, self._model, self._judges = job, model, judges
        kill_points.this_is(REWARD if judges else REFERENCE)
        self._clock = Clock()

    def meeting_point(self) -> tuple[str, int]:
        return meeting_point()

    def start(self, rendezvous: Rendezvous) -> None:
        """Joins the group and loads; collective."""
        stage = self._job.stage
        own = stage.resources.reward if self._judges else stage.resources.reference
        join(rendezvous, own, stage.resources)
        spec = LearnerSpec(
            self._model, stage.precision, None, cpu_offload=waits_in_host_memory(own, stage.resources),
            head="scores" if self._judges else "logprobs",
            trust_remote_code=self._job.trust_remote_code,
        )  # fmt: skip
        self._learner = Learner(spec, build_mesh(rendezvous.ranks))
        self._learner.load()
        if self._judges:
            self._end_id = self._end_of_answers()

    def _end_of_answers(self) -> int:
        """As the reward model's own template writes it; as the policy's does, where it has none."""
        for model in (self._model, self._job.policy):
            tokenizer = load_tokenizer(read_tokenizer_files(model, self._job.trust_remote_code))
            if tokenizer.chat_template:
                break
        return written_end(tokenizer, end_token_ids(model, tokenizer))

    def score(self, asked: Asked, units: Sequence[Handle]) -> Column | Scores:
        """Of this rank's answers in some units (in a list: Ray would wait for a bare handle before the call); collective."""
        del asked
        found = read_units(units)
        kill_points.reach("ppo_scoring")
        answers = self._job.stage.algorithm.answers_per_prompt
        with self._clock.working("judge"):
            micro_batches = own_micro_batches(found, self._job.stage.micro_batch_tokens)
            if self._judges:
                return scores_of_answers(self._learner, micro_batches, answers, self._end_id)
            return numbers_of_tokens(self._learner, micro_batches, self._job.sampling.temperature, answers)

    def busy_s(self) -> dict[str, float]:
        return self._clock.take()


class FunctionScorer:
    """One process that calls a Python function; it has no group, and a time-out of its own at the driver."""

    def __init__(self, job: PpoJob, function: str) -> None:
        self._job, self._function = job, function
        self._clock = Clock()

    def meeting_point(self) -> tuple[str, int]:
        return meeting_point()

    def start(self, rendezvous: Rendezvous) -> None:
        """Imports the function and reads the prompts."""
        del rendezvous
        self._call = import_function(self._function)
        asked_splits = ("train",) if self._job.stage.heldout is None else ("train", "heldout")  # the other may be empty
        self._tables = {split: read_prompts(self._job.shards, split) for split in asked_splits}
        self._tokenizer = load_tokenizer(read_tokenizer_files(self._job.policy, self._job.trust_remote_code))

    def score(self, asked: Asked, units: Sequence[Handle]) -> Scores:
        """Of all answers in some units. Raises RewardFunctionError."""
        answers = self._job.stage.algorithm.answers_per_prompt
        rollouts: list[Rollout] = [rollout for of_prompt in read_units(units).values() for rollout in of_prompt]
        prompts = self._prompts(asked)
        with self._clock.working("judge"):
            texts = [self._decoded(rollout) for rollout in rollouts]
            asked_of = [prompts[rollout.prompt_id] for rollout in rollouts]
            state = TrainerState(asked.step, self._job.total_steps)
            numbers = call_reward(self._function, self._call, rollouts, texts, asked_of, state)
        return {answer_number(rollout, answers): score for rollout, score in zip(rollouts, numbers, strict=True)}

    def busy_s(self) -> dict[str, float]:
        return self._clock.take()

    def _decoded(self, rollout: Rollout) -> str:
        return cast(Any, self._tokenizer).decode(rollout.answer_ids, skip_special_tokens=True)

    def _prompts(self, asked: Asked) -> Sequence[PromptRow]:
        table: PromptTable = self._tables[asked.split]
        return asked_prompts(self._job, table, asked)
