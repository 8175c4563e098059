"""Which of the known row formats a row has, by its columns.

row --columns that are set--> every format that needs no others --the most specific one--> convert (jobs/corpus/convert.py)
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from jobs.corpus import convert
from jobs.corpus.raw import Raw, RowError

Row = Mapping[str, object]


@dataclass(frozen=True)
class Format:
    """A shape of rows.

    Example:
        Format(({"prompt", "completion"},), convert.completion_row, ())
    """

    columns: tuple[frozenset[str], ...]
    """Sets of columns, of which a row has one whole set."""
    convert: Callable[[str, Row], Raw]
    optional: tuple[str, ...] = ()
    """Read where they are given."""


MAX_COLUMNS = 1000
"""Of a row. Wide data sets have some hundred; comparing a name with each of a million columns takes a minute a row."""
SHOWN_COLUMNS, SHOWN_CHARACTERS = 30, 60
"""Of columns and their names in messages: broken rows have names of any length."""

INSTRUCTION = ("input", "context", "system", "history")
"""What may stand beside an `instruction`."""


def _any(*sets: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(names.split()) for names in sets)


FORMATS: dict[str, Format] = {
    "text_rows": Format(_any("text"), convert.text_row),
    "messages": Format(_any("messages"), convert.messages_row, ("text",)),
    "sharegpt": Format(_any("conversations"), convert.sharegpt_row, ("system", "text")),
    "prompt_completion": Format(_any("prompt completion"), convert.completion_row, ("text",)),
    "instructions": Format(
        _any("instruction output", "instruction response"), convert.instruction_row, (*INSTRUCTION, "text")
    ),
    "preferences": Format(
        _any("chosen rejected", "prompt chosen rejected"), convert.preference_row, ("system", "margin")
    ),
    "ultrafeedback": Format(_any("prompt chosen rejected messages"), convert.preference_row, ("system", "margin")),
    "conversation_preferences": Format(
        _any("conversations chosen rejected", "messages chosen rejected"),
        convert.conversation_preference_row,
        ("system", "margin"),
    ),
    "instruction_preferences": Format(
        _any(
            "instruction chosen rejected",
            "instruction input chosen rejected",
            "instruction chosen_response rejected_response",
        ),
        convert.instruction_preference_row,
        (*INSTRUCTION, "margin"),
    ),
    "question_preferences": Format(
        _any("question chosen rejected", "input chosen rejected"),
        convert.question_preference_row,
        ("system", "margin"),
    ),
    "swift_preferences": Format(_any("messages rejected_response"), convert.swift_preference_row),
    "openai_preferences": Format(_any("input preferred_output non_preferred_output"), convert.openai_preference_row),
    "arena": Format(_any("conversation_a conversation_b winner"), convert.arena_row),
    "helpsteer": Format(_any("context response1 response2 overall_preference"), convert.helpsteer_row),
    "rankings": Format(_any("prompt answers"), convert.ranking_row, ("ranks",)),
    "thumbs": Format(_any("prompt completion label"), convert.thumb_row),
    "conversation_thumbs": Format(
        _any("messages label", "messages kto_tag", "conversations label", "conversations kto_tag"),
        convert.conversation_thumb_row,
        ("system",),
    ),
}  # fmt: skip
"""By the name that `format` on a source may say (configs/schema/corpus.py lists them too)."""

QUESTION_FORMATS = frozenset(FORMATS) - {"text_rows"}
"""Formats whose rows are a question and its answers; a PubMed abstract with a task made of it is a text first."""


def recognise(row: Row) -> str:
    """The format of a row.

    Raises:
        RowError: `unknown_fields` with the nearest formats, `ambiguous` with those that fit, or `too_many_columns`.
    """
    _require_few_columns(row)
    present = columns_of(row)
    # Every set of columns that fits and is not part of a larger one that fits.
    fitting = [(name, needed) for name, shape in FORMATS.items() for needed in shape.columns if needed <= present]
    best = {name for name, needed in fitting if not any(needed < other for _, other in fitting)}
    if len(best) > 1:
        best -= {"text_rows"}  # a rendered copy beside the columns it was made of, as Alpaca has
    if "preferences" in best:
        best -= {"question_preferences"}  # a question beside TRL's `prompt`, which may be made of it: the prompt counts
    if len(best) > 1:
        raise RowError("ambiguous", f"columns {_listed(present)} fit {_listed(best)}; say which by `format`")
    if not best:
        raise RowError("unknown_fields", f"has columns {_listed(present)}; {nearest(present)}")
    return best.pop()


def convert_row(uri: str, row: Row, name: str) -> Raw:
    """A row of format `name` as a document. Raises RowError, also where a column holds what no model here reads."""
    _require_few_columns(row)
    present = columns_of(row)
    shape = FORMATS[name]
    if not any(needed <= present for needed in shape.columns):
        wanted = " or ".join(_listed(needed) for needed in shape.columns)
        raise RowError("missing_columns", f"`{name}` needs {wanted}; the row has {_listed(present)}")
    convert.refuse_unreadable(row)
    for column in used_columns(row, name):
        value = row[column]
        if isinstance(value, RowError):
            raise value
    return replace(shape.convert(uri, row), format=name, ignored=ignored_columns(row, name))


def _require_few_columns(row: Row) -> None:
    if len(row) > MAX_COLUMNS:
        raise RowError("too_many_columns", f"{len(row):,} columns, at most {MAX_COLUMNS:,}")


def columns_of(row: Row) -> frozenset[str]:
    """Columns that hold something: a Parquet file has every column in every row, and Alpaca's `input` is often ""."""
    return frozenset(
        name for name, value in row.items() if value is not None and not (name in INSTRUCTION and value == "")
    )


def used_columns(row: Row, name: str) -> list[str]:
    """What of a row a format reads, in the row's order."""
    shape = FORMATS[name]
    known = {*shape.optional, *(column for needed in shape.columns if needed <= columns_of(row) for column in needed)}
    return [column for column in row if column in known]


def ignored_columns(row: Row, name: str) -> tuple[str, ...]:
    """What a format leaves unread though it holds something, in the row's order."""
    used = used_columns(row, name)
    unread = [column for column in row if column not in used and column not in convert.UNREADABLE]
    return tuple(column for column in unread if row[column] not in (None, "", [], {}))


def nearest(present: frozenset[str]) -> str:
    """What the nearest formats lack, with the columns that may be misspelt."""
    lacking = []
    for name, shape in FORMATS.items():
        for needed in shape.columns:
            close = {column: _similar(column, present) for column in sorted(needed - present)}
            cost = len(close) - 0.5 * sum(found is not None for found in close.values())
            words = [f"`{column}`" + (f" (is it `{found}`?)" if found else "") for column, found in close.items()]
            lacking.append((cost, -len(needed & present), f"`{name}` lacks {', '.join(words)}"))
    return "nearest formats: " + "; ".join(words for _, _, words in sorted(lacking)[:3])


def _similar(column: str, present: frozenset[str]) -> str | None:
    return next(iter(difflib.get_close_matches(column, sorted(present), n=1, cutoff=0.7)), None)


def shortened(name: str) -> str:
    return name if len(name) <= SHOWN_CHARACTERS else f"{name[:SHOWN_CHARACTERS]}..."


def _listed(names: frozenset[str] | set[str]) -> str:
    shown = ", ".join(f"`{shortened(name)}`" for name in sorted(names)[:SHOWN_COLUMNS])
    return shown if len(names) <= SHOWN_COLUMNS else f"{shown} and {len(names) - SHOWN_COLUMNS} more"
