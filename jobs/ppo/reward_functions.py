"""Python functions as rewards, called as TRL calls them.

module:function --import_function--> function        answers, prompts --call_reward--> a number each, NaN without opinion
"""

import asyncio
import hashlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from cluster.checkout import CHECKOUT
from configs.errors import RunFailed, UserError
from configs.schema.ppo_stage import FUNCTION
from jobs.records import PromptRow, Rollout

OFFERED = ("prompts", "completions", "completion_ids", "answer", "finished", "trainer_state")
"""By these names a function is called: by those it has, or by all where it takes any."""


@dataclass(frozen=True, slots=True)
class TrainerState:
    """What TRL's functions read of `transformers.TrainerState` where a reward changes while a run goes on."""

    global_step: int
    """Steps that are done."""
    max_steps: int


class RewardFunctionError(UserError):
    """A Python reward function cannot be imported or called, or returns something else than a number for each answer."""


def import_function(name: str) -> Callable[..., Any]:
    """The function `module:function`. Raises RewardFunctionError, also where it asks for what nobody gives it."""
    assert FUNCTION.fullmatch(name), name
    _look_into_checkout()
    module_name, _, function_name = name.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), function_name)
    except Exception as error:  # whatever the module does when it is imported
        raise _not_importable(name, f"{type(error).__name__}: {error}") from error
    if not callable(found) or isinstance(found, type):
        what = "class" if isinstance(found, type) else type(found).__name__
        raise RewardFunctionError(f"rewards: {name} is a {what}, not a function")
    try:
        signature = inspect.signature(found)
    except ValueError as error:
        raise RewardFunctionError(
            f"rewards: {name} does not say what it takes ({error}); write a function that calls it"
        ) from error
    parameters = [parameter for parameter in signature.parameters.values() if not _takes_any(parameter)]
    unknown = [each.name for each in parameters if each.name not in OFFERED and each.default is each.empty]
    given = [each.name for each in parameters if each.name in OFFERED]
    if unknown or (not given and not _open_to_all(found)):
        asks = f"asks for {', '.join(unknown)}" if unknown else "takes none of what there is to judge by"
        raise RewardFunctionError(
            f"rewards: {name} {asks}; a reward function is given {', '.join(OFFERED)}. Write a function of your own that calls "
            f"it, e.g. def reward(completions, answer, **others): return {function_name}(...)"
        )
    return found


def _takes_any(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)


def _open_to_all(function: Callable[..., Any]) -> bool:
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in inspect.signature(function).parameters.values())


def module_identity(name: str | None) -> dict[str, str]:
    """sha256 of the file in which the function stands: what it computes may be another thing when that changes.

    Empty without a function or a file. What the module imports is not looked at, nor is the module imported.

    Raises:
        RewardFunctionError: there is no such module.
    """
    if name is None:
        return {}
    _look_into_checkout()
    module_name, _, _ = name.partition(":")
    try:
        spec = importlib.util.find_spec(module_name)
    except Exception as error:  # of a package around it, which is imported
        raise _not_importable(name, f"{type(error).__name__}: {error}") from error
    if spec is None:
        raise _not_importable(name, f"No module named {module_name!r}")
    if not spec.has_location or spec.origin is None:  # built into Python
        return {}
    return {"module_sha256": hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()}


def _look_into_checkout() -> None:
    """As workers do (cluster/session.py): the installed command itself sees our own packages of the checkout only."""
    if str(CHECKOUT) not in sys.path:
        sys.path.insert(0, str(CHECKOUT))


def _not_importable(name: str, why: str) -> RewardFunctionError:
    return RewardFunctionError(
        f"rewards: {name} cannot be imported ({why}). The module must lie in the checkout, or be installed on every node."
    )


def call_reward(
    name: str,
    function: Callable[..., Any],
    rollouts: Sequence[Rollout],
    texts: Sequence[str],
    prompts: Sequence[PromptRow],
    state: TrainerState,
) -> list[float]:
    """As TRL calls it: conversations and answers as lists of messages, tokens, the data's answer, and how far the run is; what
    is asynchronous is waited for. None becomes NaN.

    Raises:
        RewardFunctionError: it raises, or does not return a number or None for each answer.
        RunFailed: a number is infinite or NaN.
    """
    arguments: dict[str, Any] = {
        "prompts": [orjson.loads(prompt.messages) for prompt in prompts],
        "completions": [[{"role": "assistant", "content": text}] for text in texts],
        "completion_ids": [list(rollout.answer_ids) for rollout in rollouts],
        "answer": [prompt.answer for prompt in prompts],
        "finished": [rollout.finished for rollout in rollouts],
        "trainer_state": state,
    }
    assert tuple(arguments) == OFFERED
    if not _open_to_all(function):
        accepted = inspect.signature(function).parameters
        arguments = {key: value for key, value in arguments.items() if key in accepted}
    try:
        said = function(**arguments)
        if inspect.iscoroutine(said):
            said = asyncio.run(said)
        said = list(said)
        numbers = [math.nan if value is None else _number(value) for value in said]
    except Exception as error:
        raise RewardFunctionError(f"rewards: {name} failed: {type(error).__name__}: {error}") from error
    if len(numbers) != len(rollouts):
        raise RewardFunctionError(f"rewards: {name} returned {len(numbers)} numbers for {len(rollouts)} answers")
    for value, number in zip(said, numbers, strict=True):
        if value is not None and not math.isfinite(number):
            what = "NaN" if math.isnan(number) else "infinity"
            raise RunFailed(f"rewards: {name} returned {what}; return None where there is nothing to say")
    return numbers


def _number(value: Any) -> float:
    if isinstance(value, str):
        raise TypeError(f"{value!r} is a string, not a number")
    return float(value)
