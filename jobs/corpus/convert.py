"""One row of a known format -> a document: texts, conversations, pairs, rankings, thumbs.

Every function takes the row's place and the row, and raises RowError where a value is not what the format says. Which
format a row has is decided in jobs/corpus/formats.py.
"""

import functools
import math
from collections.abc import Mapping

from configs.schema.licences import canonical_expression
from jobs.corpus.judgements import judged
from jobs.corpus.messages import message_of, messages_of, text_field
from jobs.corpus.raw import Message, Raw, RowError

Row = Mapping[str, object]

PROMPT_LIKE = (
    "question", "input", "instruction", "query", "problem", "context", "history", "conversation", "conversations", "messages",
)  # fmt: skip
"""Columns that would hold the prompt of a pair without a `prompt`: what the answers begin with is none then."""

UNREADABLE = {
    **dict.fromkeys(("image", "images", "video", "videos", "audio", "audios"), "not_text"),
    **dict.fromkeys(("tools", "functions"), "tool_call"),
}
"""Columns that decide what an answer means, and the reason that rows with them are set aside: nothing here reads them."""


def refuse_unreadable(row: Row) -> None:
    """Raises RowError where a row comes with pictures, films, sounds or tools."""
    for name, reason in UNREADABLE.items():
        value = row.get(name)
        # LLaMA-Factory writes a list of tools as a string of JSON; Parquet fills lists up with null.
        if value in (None, "", "[]") or (isinstance(value, list) and not any(value)):
            continue
        raise RowError(
            reason, f"`{name}` is not empty, and an answer to it cannot be learnt from the text alone; remove the row"
        )


def licence_of(row: Row, column: str | None) -> str | None:
    """A row's own licence as SPDX writes it. Raises RowError: what nobody can look up is not guessed."""
    value = None if column is None else row.get(column)
    if value in (None, ""):
        return None
    try:
        return _licence(value if isinstance(value, str) else "")
    except ValueError as error:
        raise RowError("unknown_licence", f"`{column}`: {error}") from None


@functools.lru_cache(maxsize=4096)
def _licence(text: str) -> str:
    return canonical_expression(text)


def conversation(uri: str, row: Row, turns: list[Message]) -> Raw:
    """A conversation; where the row has a `text` of its own, that is the document's."""
    text = text_field(row, "text") if row.get("text") is not None else "\n\n".join(turn["content"] for turn in turns)
    return Raw(uri, text, turns)


def text_row(uri: str, row: Row) -> Raw:
    return Raw(uri, text_field(row, "text"), None)


def messages_row(uri: str, row: Row) -> Raw:
    return conversation(uri, row, _list(row, "messages"))


def sharegpt_row(uri: str, row: Row) -> Raw:
    return conversation(uri, row, _with_system(row, _list(row, "conversations")))


def completion_row(uri: str, row: Row) -> Raw:
    """TRL's prompt and completion: only the completion is learnt."""
    prompt, completion = messages_of(row["prompt"], "prompt"), messages_of(row["completion"], "completion", "assistant")
    return conversation(uri, row, [*_read_only(prompt), *completion])


def instruction_row(uri: str, row: Row) -> Raw:
    """Alpaca and Dolly. Without a `system` the input is the system message, which the `instruction` template calls context."""
    answer = text_field(row, "output" if row.get("output") is not None else "response")
    return conversation(uri, row, [*_instruction(row), Message(role="assistant", content=answer)])


def preference_row(uri: str, row: Row) -> Raw:
    """TRL's prompt, chosen and rejected; a prompt that is not given is what both answers begin with."""
    if row.get("prompt") is not None:
        return _pair(uri, row, _with_system(row, messages_of(row["prompt"], "prompt")))
    unread = [name for name in PROMPT_LIKE if row.get(name) is not None]
    if unread:
        raise RowError(
            "unread_prompt", f"`{unread[0]}` looks like the prompt, which is read from `prompt`; rename the column"
        )
    prompt, chosen, rejected = _without_prompt(row["chosen"], row["rejected"])
    return judged(
        uri, "preferences", _with_system(row, prompt), [chosen, rejected], (0, 1), _number(row, "margin", 0.0)
    )


def conversation_preference_row(uri: str, row: Row) -> Raw:
    """LLaMA-Factory's and axolotl's: a conversation, and two answers to it."""
    name = "conversations" if row.get("conversations") is not None else "messages"
    return _pair(uri, row, _with_system(row, _list(row, name)))


def instruction_preference_row(uri: str, row: Row) -> Raw:
    """LLaMA-Factory's; Argilla calls the answers chosen_response and rejected_response."""
    names = ("chosen", "rejected") if row.get("chosen") is not None else ("chosen_response", "rejected_response")
    return _pair(uri, row, _instruction(row), names)


def question_preference_row(uri: str, row: Row) -> Raw:
    """Intel Orca's system, question and answers; distilabel calls the question input."""
    name = "question" if row.get("question") is not None else "input"
    return _pair(uri, row, _with_system(row, messages_of(row[name], name)))


def swift_preference_row(uri: str, row: Row) -> Raw:
    """ms-swift's: a conversation, and a worse last answer."""
    turns = _list(row, "messages")
    rejected = messages_of(row["rejected_response"], "rejected_response", "assistant")
    return judged(uri, "preferences", turns[:-1], [turns[-1:], rejected], (0, 1))


def openai_preference_row(uri: str, row: Row) -> Raw:
    asked = row["input"]
    if isinstance(asked, dict):
        refuse_unreadable(asked)
        asked = asked.get("messages")
    prompt = messages_of(asked, "input")
    return _pair(uri, row, prompt, ("preferred_output", "non_preferred_output"))


def arena_row(uri: str, row: Row) -> Raw:
    """LMArena's two conversations and a winner."""
    prompt, first, second = _without_prompt(row["conversation_a"], row["conversation_b"])
    ranks = {"model_a": (0, 1), "model_b": (1, 0)}.get(str(row["winner"]), (0, 0))
    return judged(uri, "preferences", prompt, [first, second], ranks)


def helpsteer_row(uri: str, row: Row) -> Raw:
    """HelpSteer3's two responses; -3 (the first is much better) to 3 (the second is)."""
    prompt = messages_of(row["context"], "context")
    answers = [messages_of(row[name], name, "assistant") for name in ("response1", "response2")]
    preference = _number(row, "overall_preference")
    return judged(uri, "preferences", prompt, answers, (preference, 0), abs(preference))


def ranking_row(uri: str, row: Row) -> Raw:
    """A prompt and answers with ranks (1 is best, equal ranks are a tie): inside the answers as in Nectar, or in `ranks`."""
    given, ranks = row["answers"], row.get("ranks")
    if not isinstance(given, list) or not given:
        raise RowError("wrong_type", "answers is not a list")
    if ranks is None:
        ranks = [answer.get("rank") if isinstance(answer, dict) else None for answer in given]
    numbers = ranks if isinstance(ranks, list) else []
    numbers = [rank for rank in numbers if isinstance(rank, int | float) and math.isfinite(rank)]
    if len(numbers) != len(given):
        raise RowError("no_ranks", f"{len(given)} answers need a finite number each, in their `rank` or in `ranks`")
    answers = [_ranked_answer(answer, f"answers[{number}]") for number, answer in enumerate(given)]
    return judged(uri, "preferences", messages_of(row["prompt"], "prompt"), answers, numbers)


def thumb_row(uri: str, row: Row) -> Raw:
    """TRL's KTO type: prompt, completion, label."""
    prompt, answer = messages_of(row["prompt"], "prompt"), messages_of(row["completion"], "completion", "assistant")
    return judged(uri, "thumbs", prompt, [_after(prompt, answer)], [0 if _label(row) else 1])


def conversation_thumb_row(uri: str, row: Row) -> Raw:
    """LLaMA-Factory's KTO type: the last answer of a conversation is what is judged."""
    turns = _with_system(row, _list(row, "conversations" if row.get("conversations") is not None else "messages"))
    return judged(uri, "thumbs", turns[:-1], [turns[-1:]], [0 if _label(row) else 1])


def _pair(uri: str, row: Row, prompt: list[Message], names: tuple[str, str] = ("chosen", "rejected")) -> Raw:
    """The two answers in the columns `names`, the better one first; they may repeat the prompt."""
    answers = [_after(prompt, messages_of(row[name], name, "assistant")) for name in names]
    return judged(uri, "preferences", prompt, answers, (0, 1), _number(row, "margin", 0.0))


def _without_prompt(chosen: object, rejected: object) -> tuple[list[Message], list[Message], list[Message]]:
    """The prompt that two answers have in common, and the answers. Of plain strings it ends between two words."""
    first, second = messages_of(chosen, "chosen", "assistant"), messages_of(rejected, "rejected", "assistant")
    if isinstance(chosen, str) and isinstance(rejected, str) and len(first) == len(second) == 1:
        pairs = enumerate(zip(chosen, rejected, strict=False))
        shared = chosen[: next((place for place, (a, b) in pairs if a != b), min(len(chosen), len(rejected)))]
        shared = shared[: max(shared.rfind(" "), shared.rfind("\n")) + 1]
        answers = [[Message(role="assistant", content=text[len(shared) :])] for text in (chosen, rejected)]
        return [Message(role="user", content=shared)], answers[0], answers[1]
    count = 0
    # The last message is always an answer, also where both are the same: that is said later (identical_answers).
    while count < min(len(first), len(second)) - 1 and first[count] == second[count]:
        count += 1
    return first[:count], first[count:], second[count:]


def _after(prompt: list[Message], answer: list[Message]) -> list[Message]:
    """The answer alone, where it repeats the prompt as UltraFeedback's does, with or without the system message."""
    plain = [(turn["role"], turn["content"]) for turn in answer]
    whole = [(turn["role"], turn["content"]) for turn in prompt]
    for asked in (whole, [turn for turn in whole if turn[0] != "system"]):
        if asked and plain[: len(asked)] == asked:
            return answer[len(asked) :]
    return answer


def _list(row: Row, name: str) -> list[Message]:
    if not isinstance(row[name], list):
        raise RowError("wrong_type", f"{name} is not a list of messages")
    return messages_of(row[name], name)


def _read_only(turns: list[Message]) -> list[Message]:
    return [{**turn, "weight": 0} if turn["role"] == "assistant" else turn for turn in turns]


def _with_system(row: Row, turns: list[Message]) -> list[Message]:
    """The turns after the row's `system`, where it has one and they do not begin with it. Raises RowError at another."""
    system = row.get("system")
    if not isinstance(system, str) or not system.strip():
        return turns
    if turns and turns[0]["role"] == "system":
        if turns[0]["content"] != system:
            raise RowError("two_systems", "the column `system` and the first message are different system messages")
        return turns
    return [Message(role="system", content=system), *turns]


def _instruction(row: Row) -> list[Message]:
    """System message, earlier turns and the instruction."""
    instruction = text_field(row, "instruction")
    context = row.get("input") if row.get("input") is not None else row.get("context")
    if context is not None and not isinstance(context, str):
        raise RowError("wrong_type", f"input or context is a {type(context).__name__}, not a string")
    system = row.get("system") or ""
    if context and context.strip():
        if system:
            instruction = f"{instruction}\n\n{context}"
        else:
            system = context
    turns = [message for pair in _pairs(row.get("history")) for message in pair]
    return _with_system({"system": system}, [*turns, Message(role="user", content=instruction)])


def _pairs(history: object) -> list[tuple[Message, Message]]:
    """Alpaca's `history`: [[instruction, response], ...]."""
    if history is None:
        return []
    if not isinstance(history, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in history):
        raise RowError("wrong_type", "history is not a list of [instruction, response]")
    return [
        (
            message_of({"role": "user", "content": asked}, "history"),
            message_of({"role": "assistant", "content": said}, "history"),
        )
        for asked, said in history
    ]


def _ranked_answer(answer: object, field: str) -> list[Message]:
    if isinstance(answer, dict) and "role" not in answer:
        answer = next((answer[name] for name in ("answer", "response", "content", "text") if name in answer), None)
    return messages_of(answer, field, "assistant")


def _label(row: Row) -> bool:
    value = row["label"] if row.get("label") is not None else row.get("kto_tag")
    known = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
    if str(value).lower() not in known:
        raise RowError("wrong_label", f"the label is a {type(value).__name__} that is neither true nor false")
    return known[str(value).lower()]


def _number(row: Row, name: str, default: float | None = None) -> float:
    """A finite number. What is not given (pandas writes NaN for that) is the default; without one that is a RowError."""
    value = row.get(name)
    try:
        number = math.nan if value is None or value == "" else float(value)  # pyright: ignore[reportArgumentType] - raises
    except (TypeError, ValueError):
        raise RowError("wrong_type", f"{name} is a {type(value).__name__}, not a number") from None
    if math.isinf(number):
        raise RowError("not_finite", f"{name} is {number}; a loss with it would be no number")
    if not math.isnan(number):
        return number
    if default is None:
        raise RowError("no_number", f"{name} has no number")
    return default
