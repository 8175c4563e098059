"""`acclimate data check` and `data preview`: verdicts, counts and gates by hand-made files; nothing is started or written."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.corpus.template import load_template
from jobs.inspection.check import DataReport, gates
from tests.world.command import acclimate, require_refused
from tests.world.toy_judgements import write_toy_judgements
from tests.world.toy_run import ToyRun

USER, ANSWER = {"role": "user", "content": "Which case?"}, {"role": "assistant", "content": "This one."}


GOOD = DataReport(
    "s", "messages", 64, 100, True, {}, {}, 90, 9, 0, {}, {}, 0, 0, {"count": 0, "places": []}, 1.0, 500, 200, []
)
"""A report that passes every gate."""


@pytest.fixture
def toy(tmp_path: Path, tiny_model: Path) -> ToyRun:
    return write_toy_judgements(tmp_path / "run", tiny_model, str(tmp_path / "store"))


def with_rows(toy: ToyRun, *rows: dict[str, Any]) -> str:
    """An override that lets the corpus of `best` and `pairs` read these rows instead."""
    path = toy.config.parent / "other.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"stages.opinions.sources.pairs.path={path}"


def checked(toy: ToyRun, stage: str, *overrides: str, code: int = 0) -> dict[str, Any]:
    answer = acclimate("data", "check", str(toy.config), *overrides, "--stage", stage, "--json")
    assert answer.code == code, answer.stderr
    (report,) = json.loads(answer.stdout)
    return report


def test_check_counts_what_the_stage_would_make(toy: ToyRun) -> None:
    report = checked(toy, "pairs")
    assert report["verdicts"] == {"pairs": {"preferences": 60}}
    assert report["train"] + report["heldout"] == 60 and report["heldout"] > 0
    assert report["complete"] and report["set_aside"] == {} and report["failed"] == []
    assert 0 < report["lengths"]["p50"] <= report["lengths"]["p99"] <= report["lengths"]["max"] <= 128
    assert report["cut_rows"] == {"count": 0, "places": []}
    short = checked(toy, "pairs", "stages.pairs.context=95", code=2)
    assert short["truncated"] > 0 and short["lost_tokens"] == report["tokens"] - short["tokens"]
    (sentence,) = short["failed"]
    assert f"{short['cut_rows']['count']} of 60 rows are cut off" in sentence
    assert short["cut_rows"]["places"][0] in sentence
    quarantined = checked(toy, "pairs", "stages.pairs.context=95", "stages.pairs.too_long=quarantine")
    aside = quarantined["set_aside"]["too_long"]["count"]
    assert aside > 0 and quarantined["train"] + quarantined["heldout"] == 60 - aside
    assert toy.store.names("runs") == [] and toy.store.names("artifacts") == []


def test_check_speaks_to_people(toy: ToyRun) -> None:
    answer = acclimate("data", "check", str(toy.config), "--rows", "10")
    assert answer.code == 0, answer.stderr
    for words in ("the first 10 rows read", "10 as preferences", "10 as thumbs", "p50", "p99", "fill", "cut off"):
        assert words in answer.stdout, answer.stdout


def test_rows_with_nothing_to_learn_stop_it_with_their_numbers(toy: ToyRun) -> None:
    rows = [
        {"messages": [USER, {**ANSWER, "weight": 0}]},
        {"messages": [USER]},
        {"messages": [USER, {**ANSWER, "content": "That one."}]},
    ]
    override = with_rows(toy, *rows)
    answer = acclimate(
        "data", "check", str(toy.config), override, "stages.opinions.cleaning.minimum_characters=1", "--stage", "best"
    )
    assert answer.code == 2
    assert "2 of 3 rows have no token to learn" in answer.stderr
    assert (
        "other.jsonl#1" in answer.stderr and "other.jsonl#2" in answer.stderr and "other.jsonl#3" not in answer.stderr
    )


def test_a_context_that_cuts_every_answer_off_stops_it(toy: ToyRun) -> None:
    report = checked(toy, "pairs", "stages.pairs.context=32", code=2)
    assert report["learnt_tokens"] == 0
    assert [sentence for sentence in report["failed"] if "raise `context` (32)" in sentence]
    assert report["set_aside"]["answer_cut_off"]["count"] == 60


def test_a_row_kind_that_the_files_do_not_have_stops_it(toy: ToyRun) -> None:
    answer = acclimate("data", "check", str(toy.config), "stages.thumbs.rows=preferences", "--stage", "thumbs")
    assert answer.code == 2
    assert (
        "nothing is left to learn as `rows: preferences`; the sources were read as {'thumbs': ['thumbs']}"
        in answer.stderr
    )


def test_columns_that_are_not_read_are_named(toy: ToyRun) -> None:
    pairs = [{"prompt": f"Q{n}", "chosen": "A", "rejected": "B", "id": n, "notes": ""} for n in range(20)]
    pairs[3]["source"] = "them"
    override = with_rows(toy, *pairs)
    report = checked(toy, "pairs", override)
    assert report["ignored"] == {"pairs": {"id": 20, "source": 1}}
    spoken = acclimate("data", "check", str(toy.config), override, "--stage", "pairs").stdout
    assert "pairs: 20 as preferences; not read: `id`, `source`" in " ".join(spoken.split())


def test_tokens_that_the_import_will_add_are_tokens_here_already(toy: ToyRun, tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text(load_template("instruction", Path()).replace("### Response\\n", "<|answer|>"))
    chosen = f"stages.base.chat_template={template}"
    letters = checked(toy, "pairs", chosen)
    report = checked(toy, "pairs", chosen, 'stages.base.added_tokens=["<|answer|>"]')
    segments = 2 * (report["train"] + report["heldout"])
    assert letters["tokens"] - report["tokens"] >= 3 * segments  # one token for `<|`, some letters and `|>`
    assert report["learnt_tokens"] == letters["learnt_tokens"]
    answer = acclimate("plan", str(toy.config), 'stages.base.added_tokens=["<|endoftext|>"]')
    require_refused(answer, 2, "added_tokens: '<|endoftext|>' is in the tokenizer")


def test_rows_that_are_all_held_out_stop_it(toy: ToyRun) -> None:
    answer = acclimate("data", "check", str(toy.config), "stages.opinions.heldout_fraction=1", "--stage", "pairs")
    assert answer.code == 2 and "stages.pairs: no row is left for training, 60 are held out" in answer.stderr


def test_a_template_without_an_end_and_unknown_columns_are_refused(toy: ToyRun, tmp_path: Path) -> None:
    template = tmp_path / "endless.jinja"
    template.write_text("{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}")
    answer = acclimate("data", "check", str(toy.config), f"stages.base.chat_template={template}")
    require_refused(answer, 2, "end-of-sequence token", "add `eos_token`")
    answer = acclimate("data", "check", str(toy.config), with_rows(toy, {"prompt": "Q", "chosen": "A", "reject": "B"}))
    require_refused(answer, 2, "other.jsonl#1", "`preferences` lacks `rejected` (is it `reject`?)")
    answer = acclimate("data", "check", str(toy.config), "--stage", "dpo")
    require_refused(answer, 2, "--stage dpo", "pairs, thumbs, best")


def test_plan_says_what_the_first_row_is_read_as_and_refuses_what_is_nothing_known(toy: ToyRun) -> None:
    rows = json.loads(acclimate("plan", str(toy.config), "--json").stdout)["stages"]
    found = {row["name"]: (row["formats"], row["what"]) for row in rows if row["kind"] == "corpus"}
    assert found["opinions"][0] == {"pairs": "preferences"} and found["opinions"][1].endswith(
        "; pairs read as preferences"
    )
    assert found["votes"][0] == {"thumbs": "thumbs"}
    answer = acclimate("plan", str(toy.config), with_rows(toy, {"prompt": "Q", "answer": "A"}))
    require_refused(answer, 2, "other.jsonl#1", "nearest formats", "is it `answer`?")


def test_answers_without_an_end_fail_a_gate() -> None:
    found = {"no_end": {"count": 1, "places": ["a.jsonl#7"]}}
    (sentence,) = gates(replace(GOOD, set_aside=found))
    assert "1 rows" in sentence and "a.jsonl#7" in sentence and "would not stop" in sentence
    assert gates(GOOD) == []


def test_rows_that_end_at_the_context_fail_a_gate_above_one_in_twenty() -> None:
    def cut(count: int) -> DataReport:
        return replace(GOOD, cut_rows={"count": count, "places": ["a.jsonl#3"]})

    assert gates(cut(4)) == []
    (sentence,) = gates(cut(5))
    assert "5 of 99 rows are cut off at the context (64)" in sentence and "a.jsonl#3" in sentence


@pytest.mark.parametrize("reason", ["empty_message", "empty_answer"])
def test_rows_without_a_word_to_learn_count_among_those_without_a_token(reason: str) -> None:
    assert gates(replace(GOOD, set_aside={reason: {"count": 5, "places": ["a.jsonl#2"]}})) == []
    (sentence,) = gates(replace(GOOD, set_aside={reason: {"count": 6, "places": ["a.jsonl#2"]}}))
    assert "6 of 100 rows have no token to learn (a.jsonl#2)" in sentence


def test_held_out_rows_alone_fail_a_gate() -> None:
    (sentence,) = gates(replace(GOOD, train=0, heldout=3))
    assert "no row is left for training, 3 are held out" in sentence and "--rows" not in sentence
    (sentence,) = gates(replace(GOOD, train=0, heldout=3, complete=False))
    assert "of the first 100; `--rows` reads more" in sentence


def test_preview_shows_what_is_learnt(toy: ToyRun) -> None:
    answer = acclimate("data", "preview", str(toy.config), "--stage", "pairs", "--rows", "2", "--json")
    assert answer.code == 0, answer.stderr
    rows = json.loads(answer.stdout)["pairs"]
    assert len(rows) == 2 and rows[0]["uri"].endswith("pairs.jsonl#1")
    chosen, rejected = rows[0]["segments"]
    assert (chosen["title"], rejected["title"]) == ("chosen", "rejected")
    assert [run["learnt"] for run in chosen["runs"]] == [False, True]
    assert chosen["runs"][0] == rejected["runs"][0] and chosen["runs"][0]["text"].endswith("### Response\n")
    assert chosen["runs"][1]["text"] == "It is case 0, number 0.<|endoftext|>"
    plain = acclimate("data", "preview", str(toy.config), "--stage", "thumbs", "--rows", "1").stdout
    assert "thumb up: " in plain and "mismatched (for KTO's KL term)" in plain


def test_preview_leaves_unlearnt_turns_dim(toy: ToyRun) -> None:
    turns = [USER, {**ANSWER, "weight": 0}, USER, {**ANSWER, "content": "The last."}]
    override = with_rows(toy, {"messages": turns})
    arguments = (
        "data",
        "preview",
        str(toy.config),
        override,
        "stages.opinions.cleaning.minimum_characters=1",
        "--stage",
        "best",
        "--json",
    )
    ((row,),) = json.loads(acclimate(*arguments).stdout).values()
    learnt = [run["text"] for run in row["segments"][0]["runs"] if run["learnt"]]
    assert learnt == ["The last.<|endoftext|>"]
