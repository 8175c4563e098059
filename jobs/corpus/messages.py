"""Turns of conversations as people write them -> `Message`.

OpenAI and TRL: {"role", "content", "weight"}; sharegpt: {"from", "value"}; axolotl: "train"; HH: "\\n\\nHuman: ... "
"""

import re
from collections.abc import Mapping

from jobs.corpus.raw import Message, RowError

ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
}  # fmt: skip
"""What roles are called, in lower case; tools have none yet."""

HH_TURN = re.compile(r"\n\n(Human|Assistant):")
"""How Anthropic's HH-RLHF writes a conversation as one string."""


def messages_of(value: object, field: str, role: str = "user") -> list[Message]:
    """A string (a message of `role`, or a HH transcript), one message, or a list of messages. Raises RowError."""
    if isinstance(value, str):
        if HH_TURN.match(value):
            return transcript(value)
        return [Message(role=role, content=_without_joint(value) if role == "assistant" else value)]
    if isinstance(value, dict):
        return [message_of(value, field)]
    if not isinstance(value, list) or not value:
        raise RowError("wrong_type", f"{field} is not a string, a message or a list of messages")
    return [message_of(turn, f"{field}[{number}]") for number, turn in enumerate(value)]


def message_of(turn: object, field: str) -> Message:
    """One turn. Raises RowError."""
    if not isinstance(turn, dict):
        raise RowError("unknown_role", f"{field} is not a message with a role")
    name = turn.get("role", turn.get("from"))
    role = ROLES.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        raise RowError("unknown_role", f"{field} needs a role of system, user or assistant")
    if turn.get("tool_calls") or turn.get("function_call"):
        raise RowError("tool_call", f"{field} calls a tool, which the templates here do not render")
    content = turn["content"] if "content" in turn else turn.get("value")
    message = Message(role=role, content=_text(content, field))
    if role == "assistant" and not _learnt(turn, field):
        message["weight"] = 0
    return message


def transcript(text: str) -> list[Message]:
    """ "\\n\\nHuman: a\\n\\nAssistant: b" as turns; an answer that is left open at the end is no turn."""
    _, *parts = HH_TURN.split(text)
    turns = list(zip(parts[::2], parts[1::2], strict=True))
    if turns[-1][0] == "Assistant" and not turns[-1][1].strip():
        turns.pop()
    return [Message(role="user" if who == "Human" else "assistant", content=said.strip()) for who, said in turns]


def _without_joint(text: str) -> str:
    """TRL's plain strings join a prompt to its answer by the answer's first space ("The sky is", " blue."); turns do not.

    More than one is indentation.
    """
    return text[1:] if text[:1] == " " and not text[1:2].isspace() else text


def text_field(row: Mapping[str, object], name: str) -> str:
    """Raises RowError where a field is no string."""
    value = row.get(name)
    if not isinstance(value, str):
        raise RowError("wrong_type", f"{name} is a {type(value).__name__}, not a string")
    return value


def _text(content: object, field: str) -> str:
    """OpenAI's list of parts is joined; pictures and sounds cannot be learnt here."""
    if isinstance(content, list) and content:
        parts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content
        ]
        if not all(isinstance(part, str) for part in parts):
            raise RowError("not_text", f"{field} has parts that are no text")
        return "".join(map(str, parts))
    if not isinstance(content, str):
        raise RowError("wrong_type", f"{field} has a content of {type(content).__name__}, not a string")
    return content


def _learnt(turn: Mapping[str, object], field: str) -> bool:
    """OpenAI's `weight` and axolotl's `train`; Parquet writes null where a row has none."""
    for name in ("weight", "train"):
        value = turn.get(name)
        if value is None:
            continue
        if value not in (0, 1):  # True and False are 1 and 0
            raise RowError("wrong_weight", f"{field}.{name} is {value!r}; an answer is learnt (1) or not (0)")
        if not value:
            return False
    return True
