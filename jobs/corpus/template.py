"""Conversations -> tokens and weights, through the chat template that travels with the model.

    messages --template--> string --tokenizer--> input_ids
                                               -> weights: 1 from the generation prompt's end to the end-of-sequence token

What is trained on must be what is served: the tokens of the whole conversation are those of `apply_chat_template`, and
every answer must start exactly where the tokens of its generation prompt end.
"""

import importlib.util
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from jinja2 import TemplateError as JinjaError
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from cluster.storage import Store
from configs.errors import UserError
from jobs.corpus.raw import Message, RowError

PRESETS = {"instruction": Path(__file__).with_name("instruction.jinja")}
"""Names that may stand for a Jinja file in `model.chat_template`."""
FROM_TRL, TRAINING = "trl:", "_training"
"""`trl:qwen3_training` is chat_templates/qwen3_training.jinja of the installed TRL, its variant of Qwen3's own for training."""

PROBE: list[Message] = [
    {"role": "user", "content": "What is measured?"},
    {"role": "assistant", "content": "The template."},
    {"role": "user", "content": "And now?"},
    {"role": "assistant", "content": "The second turn."},
]
"""Two turns: the end of an answer is looked for in the middle and at the end of a conversation."""


class TemplateError(UserError, ValueError):
    """The chat template cannot be trained with; the message says how to mend it. Exit code 2."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as tokens.

    Example:
        Rendered(input_ids=[1, 520, 198, 105, 2, 198], weights=[0, 0, 0, 1, 1, 0], prompt_length=3)
    """

    input_ids: NDArray[np.int32]
    """(T,)"""
    weights: NDArray[np.float32]
    """(T,)"""
    prompt_length: int
    """Tokens before the first answer that is learnt."""


def load_template(name: str, base: Path) -> str:
    """The text of a preset, of TRL's template `trl:NAME` or of a Jinja file; a relative path starts at `base`. TemplateError."""
    if name.startswith(FROM_TRL):
        known = _trl_templates()
        if name.removeprefix(FROM_TRL) not in known:
            raise TemplateError(f"chat_template: TRL has no {name!r}; it has {', '.join(sorted(known))}")
        return known[name.removeprefix(FROM_TRL)].read_text(encoding="utf-8")
    path = PRESETS.get(name, base / name)
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError) as error:
        presets = ", ".join(PRESETS)
        raise TemplateError(
            f"chat_template: {name!r} is neither a preset ({presets}, trl:NAME) nor a file at {path}"
        ) from error


def end_token_ids(model: Store, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end an answer: those of generation_config.json, where there is one, and the tokenizer's EOS."""
    ends: set[int] = set()
    if tokenizer.eos_token_id is not None:
        ends.add(cast(int, tokenizer.eos_token_id))
    if model.exists("generation_config.json"):
        configured = json.loads(model.read("generation_config.json")).get("eos_token_id")
        ends.update(configured if isinstance(configured, list) else [] if configured is None else [configured])
    return frozenset(ends)


def written_end(tokenizer: PreTrainedTokenizerBase, ends: Collection[int]) -> int:
    """Which of `ends` the chat template writes behind an answer. Raises RowError where it writes none."""
    rendered = render(tokenizer, PROBE, ends, "last")
    return int(rendered.input_ids[np.flatnonzero(rendered.weights)[-1]])


def check_template(tokenizer: PreTrainedTokenizerBase, ends: Collection[int]) -> None:
    """Renders a small conversation. A model trained without an end would never stop when served.

    Args:
        ends: tokens that end an answer (`end_token_ids`).

    Raises:
        TemplateError: there is no template, it cannot be rendered, an answer does not end by one of `ends`, or the tokens
            are not those that a server makes of the same messages.
    """
    if not tokenizer.chat_template:
        raise TemplateError(
            "the model has no chat template; set `chat_template: instruction` (or a Jinja file) on its stage of kind `model`"
        )
    if not ends:
        raise TemplateError("the model names no end-of-sequence token (eos_token in tokenizer_config.json)")
    try:
        rendered = render(tokenizer, PROBE, ends, "assistant")
    except RowError as error:
        advice = _training_variant(str(tokenizer.chat_template))
        raise TemplateError(f"the chat template does not fit for training: {error.detail}{advice}") from error
    served = _served_tokens(tokenizer, PROBE)
    if not np.array_equal(rendered.input_ids, served):
        raise TemplateError(
            f"the chat template gives {len(rendered.input_ids)} tokens in training and {len(served)} (or others) when served: "
            "write the special tokens in the template, and let the tokenizer add none"
        )


def _trl_templates() -> dict[str, Path]:
    """TRL's chat templates by name; found without importing it."""
    spec = importlib.util.find_spec("trl")
    assert spec is not None and spec.origin is not None
    return {path.stem: path for path in Path(spec.origin).with_name("chat_templates").glob("*.jinja")}


def _training_variant(template: str) -> str:
    """What to write instead of a well-known template that forgets parts of earlier turns (Qwen3's drops their thoughts)."""
    known = _trl_templates()
    for name, path in sorted(known.items()):
        if f"{name}{TRAINING}" in known and path.read_text(encoding="utf-8").strip() == template.strip():
            return f". Set `chat_template: {FROM_TRL}{name}{TRAINING}` on the model's stage: TRL's variant of it for training"
    return ""


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    ends: Collection[int],
    train_on: Literal["assistant", "last", "all"],
    first: int = 0,
) -> Rendered:
    """The tokens of a conversation and which of them are learnt.

    `assistant`: the tokens of each answer and the end-of-sequence token that closes it weigh 1, unless its message says
    `weight: 0`; `last`: those of the last answer; `all`: every token but those of answers with `weight: 0`. The first token
    always weighs 0: nothing predicts it.

    Args:
        first: answers before this message belong to the prompt and are not learnt.

    Raises:
        RowError: no answer, none to learn, a control token inside a message, a template that refuses the roles, an answer
            without end, or tokens of the prompt alone that differ from those inside the conversation.
    """
    _refuse_control_tokens(tokenizer, messages)
    answers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    if not answers:
        raise RowError("no_answer", "no message of the assistant")
    learnt = [number for number in answers if number >= first and messages[number].get("weight", 1)]
    if train_on == "last":
        learnt = [number for number in learnt if number == answers[-1]]
    if not learnt:
        raise RowError("nothing_learnt", "every answer has the weight 0")
    ids = _tokens(tokenizer, _string(tokenizer, messages, add_generation_prompt=False))
    spans = {
        number: _answer_span(tokenizer, messages, number, ids, ends)
        for number in (answers if train_on == "all" else learnt)
    }
    weights = np.full(len(ids), float(train_on == "all"), dtype=np.float32)
    for number, span in spans.items():
        weights[span] = float(number in learnt)
    weights[0] = 0
    return Rendered(ids, weights, spans[learnt[0]].start)


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> NDArray[np.int32]:
    """The tokens of a conversation that waits for an answer, as a server makes them. Raises RowError."""
    _refuse_control_tokens(tokenizer, messages)
    return _tokens(tokenizer, _string(tokenizer, messages, add_generation_prompt=True))


def _answer_span(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    number: int,
    ids: NDArray[np.int32],
    ends: Collection[int],
) -> slice:
    """Where the answer in message `number` lies in `ids`: from the end of its generation prompt to its end token. RowError."""
    prompt = _tokens(tokenizer, _string(tokenizer, messages[:number], add_generation_prompt=True))
    whole = _tokens(tokenizer, _string(tokenizer, messages[: number + 1], add_generation_prompt=False))
    closing = np.flatnonzero(np.isin(whole[len(prompt) :], list(ends)))
    if not len(closing):
        raise RowError(
            "no_end", f"the answer in message {number} does not end by an end-of-sequence token; add `eos_token`"
        )
    if not np.array_equal(ids[: len(prompt)], prompt):
        raise RowError("prompt_not_a_prefix", f"the tokens before message {number} change when the answer follows them")
    stop = len(prompt) + int(closing[0]) + 1
    if not np.array_equal(ids[:stop], whole[:stop]):
        raise RowError("prompt_not_a_prefix", f"the tokens of message {number} change when other messages follow")
    return slice(len(prompt), stop)


def _string(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], add_generation_prompt: bool) -> str:
    turns = [{"role": message["role"], "content": message["content"]} for message in messages]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=add_generation_prompt)
    except JinjaError as error:
        raise RowError("template_refuses", str(error)) from error
    return cast(str, text)


def _served_tokens(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> NDArray[np.int32]:
    """What transformers and vLLM make of a conversation."""
    encoded: Any = tokenizer.apply_chat_template(
        cast(list[dict[str, str]], list(messages)), tokenize=True, return_dict=True
    )
    return np.asarray(encoded["input_ids"], dtype=np.int32)


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> NDArray[np.int32]:
    """As apply_chat_template(tokenize=True) does it: the template writes the special tokens, the tokenizer adds none."""
    return np.asarray(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32)


def _refuse_control_tokens(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> None:
    """A text that spells a control token would end turns or start new ones."""
    controls = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    for number, message in enumerate(messages):
        found = [control for control in controls if control in message["content"]]
        if found:
            raise RowError("control_token", f"message {number} spells the control token {found[0]}")
