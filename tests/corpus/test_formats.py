"""Every format that people have, written out, becomes the same question with the same answers."""

import json
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.schema.corpus import RowFormat, Source
from jobs.corpus.formats import FORMATS, recognise, used_columns
from jobs.corpus.raw import Judgement, Message, Raw, Rejected, RowError
from jobs.corpus.readers import read_file
from jobs.corpus.schema import DataError

SYSTEM: Message = {"role": "system", "content": "S"}
USER: Message = {"role": "user", "content": "Q"}
GOOD: Message = {"role": "assistant", "content": "A"}
BAD: Message = {"role": "assistant", "content": "B"}
HUMAN, GPT, WORSE = {"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}, {"from": "gpt", "value": "B"}

CONVERSATIONS: list[tuple[str, dict[str, Any], list[Message]]] = [
    ("messages", {"messages": [SYSTEM, USER, GOOD]}, [SYSTEM, USER, GOOD]),
    ("messages", {"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}]}, GOOD]}, [USER, GOOD]),
    ("messages", {"messages": [USER, {**BAD, "weight": 0}, USER, {**GOOD, "weight": 1}]}, [USER, {**BAD, "weight": 0}, USER, GOOD]),
    ("messages", {"messages": [USER, {**BAD, "train": False}, USER, GOOD]}, [USER, {**BAD, "weight": 0}, USER, GOOD]),
    ("sharegpt", {"conversations": [HUMAN, GPT]}, [USER, GOOD]),
    ("sharegpt", {"conversations": [HUMAN, GPT], "system": "S"}, [SYSTEM, USER, GOOD]),
    ("prompt_completion", {"prompt": "Q", "completion": "A"}, [USER, GOOD]),
    ("prompt_completion", {"prompt": [USER, BAD, USER], "completion": [GOOD]}, [USER, {**BAD, "weight": 0}, USER, GOOD]),
    ("instructions", {"instruction": "Q", "input": "S", "output": "A"}, [SYSTEM, USER, GOOD]),
    ("instructions", {"instruction": "Q", "context": "", "response": "A"}, [USER, GOOD]),
    ("instructions", {"instruction": "Q", "input": "x", "output": "A", "system": "S"}, [SYSTEM, {**USER, "content": "Q\n\nx"}, GOOD]),
    ("instructions", {"instruction": "Q", "output": "A", "history": [["Q", "B"]]}, [USER, BAD, USER, GOOD]),
]  # fmt: skip

PAIR = Judgement("preferences", [USER], [[GOOD], [BAD]], [0, 1])
SYSTEM_PAIR = Judgement("preferences", [SYSTEM, USER], [[GOOD], [BAD]], [0, 1])
SAME_START = Judgement("preferences", [USER], [[{**GOOD, "content": "The A"}], [{**BAD, "content": "The B"}]], [0, 1])
JUDGEMENTS: list[tuple[str, dict[str, Any], Judgement]] = [
    ("preferences", {"prompt": "Q", "chosen": "A", "rejected": "B"}, PAIR),
    ("preferences", {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}, PAIR),
    ("preferences", {"prompt": "Q", "chosen": [USER, GOOD], "rejected": [USER, BAD]}, PAIR),
    ("preferences", {"chosen": [USER, GOOD], "rejected": [USER, BAD]}, PAIR),
    ("preferences", {"chosen": "\n\nHuman: Q\n\nAssistant: A", "rejected": "\n\nHuman: Q\n\nAssistant: B"}, PAIR),
    (
        "preferences",
        {"chosen": "What is iron? A metal", "rejected": "What is iron? A method"},
        Judgement("preferences", [{**USER, "content": "What is iron? A "}], [[{**GOOD, "content": "metal"}], [{**BAD, "content": "method"}]], [0, 1]),
    ),
    ("preferences", {"prompt": "Q", "chosen": "A", "rejected": "B", "margin": "1.5"}, Judgement("preferences", [USER], [[GOOD], [BAD]], [0, 1], 1.5)),
    ("ultrafeedback", {"prompt": "Q", "chosen": [USER, GOOD], "rejected": [USER, BAD], "messages": [USER, GOOD], "score_chosen": 9.0}, PAIR),
    ("conversation_preferences", {"conversations": [HUMAN], "chosen": GPT, "rejected": WORSE}, PAIR),
    ("conversation_preferences", {"messages": [USER], "chosen": GOOD, "rejected": BAD}, PAIR),
    ("preferences", {"system": "S", "prompt": "Q", "chosen": "A", "rejected": "B", "input": ""}, SYSTEM_PAIR),
    ("preferences", {"system": "S", "prompt": "Q", "chosen": [USER, GOOD], "rejected": [SYSTEM, USER, BAD]}, SYSTEM_PAIR),
    ("preferences", {"system": "S", "chosen": [SYSTEM, USER, GOOD], "rejected": [SYSTEM, USER, BAD]}, SYSTEM_PAIR),
    ("preferences", {"prompt": "Q", "question": "of what Q was made", "chosen": "A", "rejected": "B"}, PAIR),
    ("instruction_preferences", {"instruction": "Q", "input": "", "chosen": "A", "rejected": "B"}, PAIR),
    ("instruction_preferences", {"instruction": "Q", "input": "S", "chosen": "A", "rejected": "B"}, SYSTEM_PAIR),
    ("instruction_preferences", {"instruction": "Q", "chosen_response": "A", "rejected_response": "B", "chosen_avg_rating": 4.0}, PAIR),
    ("question_preferences", {"system": "S", "question": "Q", "chosen": "A", "rejected": "B"}, SYSTEM_PAIR),
    ("question_preferences", {"system": "", "question": "Q", "chosen": "The A", "rejected": "The B"}, SAME_START),
    ("question_preferences", {"system": "S", "input": "Q", "chosen": "A", "rejected": "B", "generations": ["A", "B"]}, SYSTEM_PAIR),
    ("swift_preferences", {"messages": [USER, GOOD], "rejected_response": "B"}, PAIR),
    ("openai_preferences", {"input": {"messages": [USER], "tools": []}, "preferred_output": [GOOD], "non_preferred_output": [BAD]}, PAIR),
    ("arena", {"conversation_a": [USER, BAD], "conversation_b": [USER, GOOD], "winner": "model_b"}, PAIR),
    ("helpsteer", {"context": [USER], "response1": "B", "response2": "A", "overall_preference": 2}, Judgement("preferences", [USER], [[GOOD], [BAD]], [0, 1], 2.0)),
    (
        "rankings",
        {"prompt": "Q", "answers": [{"answer": "B", "rank": 4}, {"answer": "A", "rank": 1}, {"answer": "C", "rank": 4}]},
        Judgement("preferences", [USER], [[GOOD], [BAD], [{**BAD, "content": "C"}]], [0, 1, 1]),
    ),
    ("rankings", {"prompt": "Q", "answers": ["B", "A"], "ranks": [2, 1]}, PAIR),
    ("thumbs", {"prompt": "Q", "completion": "A", "label": True}, Judgement("thumbs", [USER], [[GOOD]], [0])),
    ("thumbs", {"prompt": [USER], "completion": [BAD], "label": False}, Judgement("thumbs", [USER], [[BAD]], [1])),
    ("conversation_thumbs", {"messages": [USER, BAD], "label": False}, Judgement("thumbs", [USER], [[BAD]], [1])),
    ("conversation_thumbs", {"conversations": [HUMAN, GPT], "kto_tag": 1}, Judgement("thumbs", [USER], [[GOOD]], [0])),
]  # fmt: skip


def read(path: Path, format: str = "auto") -> list[Raw | Rejected]:
    source = Source(path=str(path), format=format, licence="CC0-1.0")  # pyright: ignore[reportArgumentType]
    return list(read_file(str(path), path.name, source))


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_schema_lists_every_format() -> None:
    assert set(get_args(RowFormat)) == set(FORMATS)
    assert {name for name, _, _ in (*CONVERSATIONS, *JUDGEMENTS)} | {"text_rows"} == set(FORMATS)


@pytest.mark.parametrize(("name", "row", "messages"), CONVERSATIONS)
def test_conversations(tmp_path: Path, name: str, row: dict[str, Any], messages: list[Message]) -> None:
    (document,) = read(write(tmp_path / "a.jsonl", row))
    assert isinstance(document, Raw), document
    assert (document.format, document.messages, document.judgement) == (name, messages, None)


@pytest.mark.parametrize(("name", "row", "judgement"), JUDGEMENTS)
def test_judged_answers(tmp_path: Path, name: str, row: dict[str, Any], judgement: Judgement) -> None:
    (document,) = read(write(tmp_path / "a.jsonl", row))
    assert isinstance(document, Raw), document
    assert (document.format, document.judgement) == (name, judgement)
    best = [*judgement.prompt, *judgement.answers[0]] if judgement.levels[0] == 0 else None
    assert document.messages == best


def test_the_same_rows_in_every_kind_of_file(tmp_path: Path) -> None:
    rows = [{"prompt": f"Q{number}", "chosen": "A, the\nfirst", "rejected": "B", "margin": None} for number in range(3)]
    write(tmp_path / "a.jsonl", *rows)
    write(tmp_path / "lines.json", *rows)
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    cells = "".join(f'{row["prompt"]},"{row["chosen"]}",{row["rejected"]},\n' for row in rows)
    (tmp_path / "a.csv").write_text("prompt,chosen,rejected,margin\n" + cells)
    (tmp_path / "a.tsv").write_text(
        "prompt\tchosen\trejected\n" + "".join(f'{row["prompt"]}\t"{row["chosen"]}"\tB\n' for row in rows)
    )
    found = {}
    for path in sorted(tmp_path.iterdir()):
        documents = read(path)
        assert [row.uri for row in documents] == [f"{path.name}#{number}" for number in (1, 2, 3)]
        found[path.name] = [row.judgement for row in documents if isinstance(row, Raw)]
    assert len(found) == 6
    assert all(judgements == found["a.jsonl"] and len(judgements) == 3 for judgements in found.values())


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Q", "chosen": "A", "rejected": "A"}, "identical_answers"),
        ({"prompt": "Q", "chosen": "A", "rejected": " "}, "empty_answer"),
        ({"prompt": "", "chosen": "A", "rejected": "B"}, "no_prompt"),
        ({"chosen": "A", "rejected": "B"}, "no_prompt"),
        ({"prompt": "Q", "chosen": "A", "rejected": "B", "margin": -1}, "negative_margin"),
        ({"prompt": "Q", "chosen": "A", "rejected": "B", "margin": "inf"}, "not_finite"),
        ({"query": "Q", "chosen": "It is A", "rejected": "It is B"}, "unread_prompt"),
        ({"system": "T", "prompt": [SYSTEM, USER], "chosen": "A", "rejected": "B"}, "two_systems"),
        ({"prompt": "Q", "chosen": "A", "rejected": 3}, "wrong_type"),
        ({"prompt": "Q", "answers": ["A", "B"], "ranks": [1, 1]}, "all_tied"),
        ({"prompt": "Q", "answers": ["A"], "ranks": [1]}, "one_answer"),
        ({"prompt": "Q", "answers": ["A", "B"]}, "no_ranks"),
        ({"conversation_a": [USER, GOOD], "conversation_b": [USER, BAD], "winner": "tie"}, "all_tied"),
        ({"messages": [USER, GOOD], "label": "perhaps"}, "wrong_label"),
        ({"messages": [GOOD, USER], "label": True}, "no_answer"),
        ({"messages": [{"role": "assistant", "tool_calls": [1]}]}, "tool_call"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "not_text"),
        ({"messages": [USER, {**GOOD, "weight": 0.5}]}, "wrong_weight"),
        ({"messages": [USER, GOOD], "images": ["cat.png"]}, "not_text"),
        ({"prompt": "Q", "completion": "A", "videos": [None, {"path": "x.mp4"}]}, "not_text"),
        ({"prompt": "Q", "completion": "A", "label": True, "audio": {"bytes": "x"}}, "not_text"),
        ({"prompt": "Q", "chosen": "A", "rejected": "B", "tools": '[{"name": "f"}]'}, "tool_call"),
        ({"input": {"messages": [USER], "tools": [{"type": "function"}]}, "preferred_output": [GOOD], "non_preferred_output": [BAD]}, "tool_call"),
    ],
)  # fmt: skip
def test_what_cannot_be_learnt_is_set_aside_by_reason(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    (rejected,) = read(write(tmp_path / "a.jsonl", row))
    assert isinstance(rejected, Rejected), rejected
    assert (rejected.uri, rejected.reason) == ("a.jsonl#1", reason)


def test_columns_for_pictures_and_tools_may_be_there_empty(tmp_path: Path) -> None:
    row = {
        "messages": [USER, GOOD],
        "images": [],
        "videos": None,
        "audios": [None],
        "tools": "[]",
        "id": 7,
        "topic": "",
    }
    (document,) = read(write(tmp_path / "a.jsonl", row))
    assert isinstance(document, Raw) and document.messages == [USER, GOOD]
    assert document.ignored == ("id",)
    (rejected,) = read(write(tmp_path / "b.jsonl", {**row, "images": ["cat.png"]}))
    assert isinstance(rejected, Rejected) and "`images` is not empty" in rejected.detail


def test_numbers_that_pandas_left_out_are_not_given(tmp_path: Path) -> None:
    nan, pair = float("nan"), {"prompt": "Q", "chosen": "A", "rejected": "B"}
    rows: dict[str, list[dict[str, Any]]] = {
        "margins": [{**pair, "margin": 1.5}, {**pair, "margin": nan}, {**pair, "margin": float("-inf")}],
        "ranks": [{"prompt": "Q", "answers": ["A", "B", "C"], "ranks": [1.0, rank, 2.0]} for rank in (nan, 3.0)],
        "helpsteer": [{"context": [USER], "response1": "A", "response2": "B", "overall_preference": nan}],
    }
    found = {}
    for name, values in rows.items():
        pq.write_table(pa.Table.from_pylist(values), tmp_path / f"{name}.parquet")
        found[name] = read(tmp_path / f"{name}.parquet")
    given, not_given, infinite = found["margins"]
    assert given.judgement.margin == 1.5 and not_given.judgement.margin == 0
    assert (infinite.uri, infinite.reason) == ("margins.parquet#3", "not_finite")
    missing, ranked = found["ranks"]
    assert (missing.uri, missing.reason) == ("ranks.parquet#1", "no_ranks")
    assert [answer[0]["content"] for answer in ranked.judgement.answers] == ["A", "C", "B"]
    (undecided,) = found["helpsteer"]
    assert (undecided.uri, undecided.reason) == ("helpsteer.parquet#1", "no_number")
    (tmp_path / "a.csv").write_text("prompt,chosen,rejected,margin\nQ,A,B,nan\n")
    (document,) = read(tmp_path / "a.csv")
    assert isinstance(document, Raw) and document.judgement == PAIR


def test_unknown_columns_are_told_the_nearest_formats(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"promt": "Q", "chosen": "A", "rejetced": "B"})
    with pytest.raises(
        DataError, match=r"a.jsonl#1: has columns .*`preferences` lacks `rejected` \(is it `rejetced`\?\)"
    ):
        read(path)
    with pytest.raises(DataError, match="`text_rows` lacks `text`"):
        read(write(tmp_path / "b.jsonl", {"x": 1}))


def test_ambiguous_and_mixed_files_are_refused_with_the_row(tmp_path: Path) -> None:
    both = {"prompt": "Q", "completion": "A", "messages": [USER, GOOD]}
    with pytest.raises(
        DataError, match=r"a.jsonl#1: columns .* fit `messages`, `prompt_completion`; say which by `format`"
    ):
        read(write(tmp_path / "a.jsonl", both))
    (document,) = read(tmp_path / "a.jsonl", "messages")
    assert isinstance(document, Raw) and document.format == "messages"
    mixed = write(tmp_path / "b.jsonl", {"text": "x"}, {"prompt": "Q", "completion": "A"})
    with pytest.raises(DataError, match=r"b.jsonl#2 is `prompt_completion`, b.jsonl#1 is `text_rows`"):
        read(mixed)
    assert [row.format for row in read(mixed, "jsonl") if isinstance(row, Raw)] == ["text_rows", "prompt_completion"]
    first, second = read(mixed, "prompt_completion")
    assert isinstance(first, Rejected) and first.reason == "missing_columns" and isinstance(second, Raw)


def test_an_unknown_row_in_a_known_file_and_a_file_without_rows(tmp_path: Path) -> None:
    rows = read(write(tmp_path / "a.jsonl", {"text": "x"}, {"title": "y"}, [1]))
    assert [row.reason for row in rows if isinstance(row, Rejected)] == ["unknown_fields", "not_an_object"]
    (tmp_path / "a.bin").write_text("x")
    with pytest.raises(DataError, match=r"a.bin: rows are read from files ending in \.jsonl"):
        read(tmp_path / "a.bin")
    (tmp_path / "a.parquet").write_text('{"text": "x"}\n')
    (damaged,) = read(tmp_path / "a.parquet")
    assert isinstance(damaged, Rejected) and damaged.reason == "damaged_file"
    (tmp_path / "a.json").write_text('[{"text": "x"},')
    kept, broken = read(tmp_path / "a.json")
    assert isinstance(kept, Raw) and isinstance(broken, Rejected) and broken.reason == "broken_json"
    (tmp_path / "empty.json").write_text("\n")
    assert [row.reason for row in read(tmp_path / "empty.json") if isinstance(row, Rejected)] == ["empty_file"]


def test_a_rendered_copy_beside_the_columns_gives_way() -> None:
    row = {"instruction": "Q", "input": None, "output": "A", "text": "### Q A", "id": 7}
    assert recognise(row) == "instructions"
    assert used_columns(row, "instructions") == ["instruction", "input", "output", "text"]
    with pytest.raises(RowError, match="unknown_fields"):
        recognise({"text": None})
