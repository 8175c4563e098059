"""Files -> documents as they stand in the source, before cleaning.

    text:   one document a file
    jsonl:  one JSON object a line; `text`, `messages`, instruction sets (Dolly, Alpaca) or prompt/completion
    pubmed: jobs/corpus/pubmed.py

A row that cannot be read is a `Rejected` with its place and reason; nothing is skipped. A file that breaks off (a
truncated .gz, malformed XML) gives the documents before the break and one `Rejected` for the rest.
"""

import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, cast
from xml.etree.ElementTree import ParseError

import orjson

from cluster.storage import Store
from configs.schema.corpus import Source
from jobs.corpus.pubmed import read_pubmed
from jobs.corpus.raw import Message, Raw, Rejected, RowError

ROLES = ("system", "user", "assistant")
UTF8_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class InstructionNames:
    """How one family of instruction sets calls its three fields."""

    instruction: str
    context: str
    response: str


INSTRUCTION_SETS = (
    InstructionNames("instruction", "context", "response"),  # databricks-dolly-15k
    InstructionNames("instruction", "input", "output"),  # Stanford Alpaca
)


def read_file(location: str, uri: str, source: Source) -> Iterator[Raw | Rejected]:
    """All documents and bad rows of one file, in its order; `.gz` is unpacked on the way. Raises FileNotFoundError."""
    folder, _, name = location.rpartition("/")
    count = 0
    with Store(folder).open(name) as packed:
        file = cast(BinaryIO, gzip.GzipFile(fileobj=packed)) if location.endswith(".gz") else packed
        try:
            for row in READERS[source.format](file, uri):
                count += 1
                yield row
        except (EOFError, gzip.BadGzipFile, zlib.error, ParseError) as error:
            yield Rejected(uri, "damaged_file", f"{error}; the {count} rows before are kept, the rest is lost")
            return
    if count == 0:
        yield Rejected(uri, "empty_file", "no row found")


def read_text(file: BinaryIO, uri: str) -> Iterator[Raw | Rejected]:
    try:
        yield Raw(uri, file.read().removeprefix(UTF8_BOM).decode(), None)
    except UnicodeDecodeError as error:
        yield Rejected(uri, "not_utf8", str(error))


def read_jsonl(file: BinaryIO, uri: str) -> Iterator[Raw | Rejected]:
    """Lines end at \\n only: U+2028 and U+0085 are ordinary characters inside a JSON string."""
    for number, line in enumerate(file, start=1):
        place = f"{uri}#{number}"
        if number == 1:
            line = line.removeprefix(UTF8_BOM)
        if not line.strip():
            continue
        try:
            yield row_document(place, orjson.loads(line))
        except orjson.JSONDecodeError as error:
            yield Rejected(place, "broken_json", str(error))
        except RowError as error:
            yield Rejected(place, error.reason, error.detail)


def row_document(uri: str, row: object) -> Raw:
    """One JSON value -> a document. Raises RowError."""
    if not isinstance(row, dict):
        raise RowError("not_an_object", f"a {type(row).__name__}")
    messages = row_messages(row)
    if "text" in row:
        return Raw(uri, text_field(row, "text"), messages)
    if messages is None:
        raise RowError(
            "unknown_fields", f"has {sorted(row)}; needs text, messages, instruction or prompt and completion"
        )
    return Raw(uri, "\n\n".join(message["content"] for message in messages), messages)


def row_messages(row: Mapping[str, object]) -> list[Message] | None:
    """The conversation of a row, or None for plain text. Raises RowError."""
    if "messages" in row:
        return conversation(row["messages"], "messages")
    if "prompt" in row and "completion" in row:
        prompt, completion = row["prompt"], row["completion"]
        if isinstance(prompt, list) and isinstance(completion, list):
            return conversation([*prompt, *completion], "prompt, completion")
        return [
            Message(role="user", content=text_field(row, "prompt")),
            Message(role="assistant", content=text_field(row, "completion")),
        ]
    for names in INSTRUCTION_SETS:
        if names.instruction in row and names.response in row:
            return instruction_messages(row, names)
    return None


def instruction_messages(row: Mapping[str, object], names: InstructionNames) -> list[Message]:
    """Instruction, context and response as a conversation; the context is the system message, if there is one."""
    context = row.get(names.context) or ""
    if not isinstance(context, str):
        raise RowError("wrong_type", f"{names.context} is a {type(context).__name__}, not a string")
    turns = [
        Message(role="user", content=text_field(row, names.instruction)),
        Message(role="assistant", content=text_field(row, names.response)),
    ]
    return [Message(role="system", content=context), *turns] if context.strip() else turns


def conversation(value: object, field: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise RowError("wrong_type", f"{field} is not a list of messages")
    messages: list[Message] = []
    for number, message in enumerate(value):
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise RowError("unknown_role", f"{field}[{number}] needs a role of {', '.join(ROLES)}")
        messages.append(Message(role=message["role"], content=text_field(message, "content")))
    return messages


def text_field(row: Mapping[str, object], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise RowError("wrong_type", f"{name} is a {type(value).__name__}, not a string")
    return value


Reader = Callable[[BinaryIO, str], Iterator[Raw | Rejected]]
READERS: dict[str, Reader] = {"text": read_text, "jsonl": read_jsonl, "pubmed": read_pubmed}
