"""Frozen models that judge: the reference gives log-probabilities, a reward model gives scores, a function gives scores.

units of answers --as soon as they are there--> Scorer rank x N --> Column | Scores
"""

import importlib
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import orjson
import ray

from cluster.group import Rendezvous, meeting_point
from cluster.storage import Store
from configs.errors import RunFailed, UserError
from configs.schema.ppo_stage import FUNCTION
from jobs.corpus.segments import load_tokenizer, read_tokenizer_files
from jobs.ppo.job import Asked, Column, Handle, PpoJob, Scores
from jobs.ppo.prompts import PromptTable, asked_prompts, read_prompts
from jobs.ppo.ranks import (
    Clock,
    answer_number,
    join,
    numbers_of_tokens,
    own_micro_batches,
    read_unit,
    scores_of_answers,
)
from jobs.records import PromptRow, Rollout
from jobs.train.fsdp import build_mesh
from jobs.train.learner import Learner, LearnerSpec


class RewardFunctionError(UserError):
    """A Python reward function cannot be imported or called, or returns something else than a number for each answer."""


class Scorer:
    """A rank of the reference or of a reward model."""

    def __init__(self, job: PpoJob, model: Store, judges: bool) -> None:
        """Args:
        judges: whether it is a reward model.
        """
        self._job, self._model, self._judges = job, model, judges
        self._clock = Clock()

    def meeting_point(self) -> tuple[str, int]:
        return meeting_point()

    def start(self, rendezvous: Rendezvous) -> None:
        """Joins the group and loads; collective."""
        stage = self._job.stage
        resources = stage.resources.reward if self._judges else stage.resources.reference
        join(rendezvous, resources.threads_per_rank, resources.gpus_per_rank)
        spec = LearnerSpec(
            self._model, stage.precision, None, head="scores" if self._judges else "logprobs",
            trust_remote_code=self._job.trust_remote_code,
        )  # fmt: skip
        self._learner = Learner(spec, build_mesh(rendezvous.ranks))
        self._learner.load()

    def score(self, asked: Asked, units: Sequence[Handle]) -> Column | Scores:
        """Of this rank's answers in a unit (a list of one: Ray would wait for a bare handle before the call); collective."""
        del asked
        unit = read_unit(units[0])
        answers = self._job.stage.algorithm.answers_per_prompt
        with self._clock.working():
            micro_batches = own_micro_batches(unit, self._job.stage.micro_batch_tokens)
            if self._judges:
                return scores_of_answers(self._learner, micro_batches, answers)
            return numbers_of_tokens(self._learner, micro_batches, self._job.sampling.temperature, answers)

    def busy_s(self) -> float:
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
        self._tables = {split: read_prompts(self._job.shards, split) for split in ("train", "heldout")}
        self._tokenizer = load_tokenizer(read_tokenizer_files(self._job.policy, self._job.trust_remote_code))

    def score(self, asked: Asked, units: Sequence[Handle]) -> Scores:
        """Of all answers in a unit. Raises RewardFunctionError."""
        answers = self._job.stage.algorithm.answers_per_prompt
        rollouts: list[Rollout] = ray.get(units[0])
        prompts = self._prompts(asked)
        with self._clock.working():
            texts = [self._decoded(rollout) for rollout in rollouts]
            numbers = call_reward(self._function, self._call, rollouts, texts, [prompts[r.prompt_id] for r in rollouts])
        return {answer_number(rollout, answers): score for rollout, score in zip(rollouts, numbers, strict=True)}

    def busy_s(self) -> float:
        return self._clock.take()

    def _decoded(self, rollout: Rollout) -> str:
        return cast(Any, self._tokenizer).decode(rollout.answer_ids, skip_special_tokens=True)

    def _prompts(self, asked: Asked) -> Sequence[PromptRow]:
        table: PromptTable = self._tables[asked.split]
        return asked_prompts(self._job, table, asked)


def import_function(name: str) -> Callable[..., Any]:
    """The function `module:function`. Raises RewardFunctionError."""
    assert FUNCTION.fullmatch(name), name
    module_name, _, function_name = name.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise RewardFunctionError(
            f"rewards: {name} cannot be imported ({error}). The module must lie in the checkout, or be installed on every node."
        ) from error
    if not callable(found):
        raise RewardFunctionError(f"rewards: {name} is a {type(found).__name__}, not a function")
    return found


def call_reward(
    name: str,
    function: Callable[..., Any],
    rollouts: Sequence[Rollout],
    texts: Sequence[str],
    prompts: Sequence[PromptRow],
) -> list[float]:
    """As TRL calls it: conversations and answers as lists of messages, tokens, and the data's answer. None becomes NaN.

    Raises:
        RewardFunctionError: it raises, or does not return a number or None for each answer.
    """
    arguments: dict[str, Any] = {
        "prompts": [orjson.loads(prompt.messages) for prompt in prompts],
        "completions": [[{"role": "assistant", "content": text}] for text in texts],
        "completion_ids": [list(rollout.answer_ids) for rollout in rollouts],
        "answer": [prompt.answer for prompt in prompts],
        "finished": [rollout.finished for rollout in rollouts],
    }
    accepted = inspect.signature(function).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values()):
        arguments = {key: value for key, value in arguments.items() if key in accepted}
    try:
        said = list(function(**arguments))
        numbers = [math.nan if value is None else float(value) for value in said]
    except Exception as error:
        raise RewardFunctionError(f"rewards: {name} failed: {type(error).__name__}: {error}") from error
    if len(numbers) != len(rollouts):
        raise RewardFunctionError(f"rewards: {name} returned {len(numbers)} numbers for {len(rollouts)} answers")
    if any(math.isinf(number) for number in numbers):
        raise RunFailed(f"rewards: {name} returned infinity; return None where there is nothing to say")
    return numbers
