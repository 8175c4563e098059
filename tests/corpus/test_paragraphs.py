"""Paragraphs that several documents share stand in one of them in the end, and nothing else is lost."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

import jobs.corpus.collect
import jobs.corpus.comparing
from cluster.storage import Store
from configs.schema.corpus import CorpusStage
from jobs.corpus.collect import CorpusSummary, build_corpus, read_corpus_split
from jobs.corpus.paragraphs import KIND, REASON
from jobs.corpus.schema import read_table
from tests.corpus.sources import write_jsonl
from tests.world.toy_corpus import partitions_here

NOTICE = "This article is distributed under terms that permit every use, as long as its authors are named in full."
OTHER = (
    "The authors thank all of the patients, and the people who looked after them, for the time that they gave to us."
)


def own(name: str) -> str:
    return f"Only {name} tells that the cells of this tissue divide twice as often where sugar is given, whatever the {name}."


def build(directory: Path, sources: dict[str, list[Any]], **settings: Any) -> tuple[CorpusSummary, Store]:
    paths = {name: write_jsonl(directory / f"{name}.jsonl", rows) for name, rows in sources.items()}
    stage = CorpusStage.model_validate(
        {
            "stage": "corpus", "partitions": 3, "heldout_fraction": 0.2, "repeated_paragraphs": settings,
            "sources": {name: {"path": str(path), "licence": "CC0-1.0"} for name, path in paths.items()},
            "cleaning": {"minimum_characters": 60},
        }
    )  # fmt: skip
    output = Store(str(directory / "corpus"))
    return build_corpus(stage, output, lambda *_: None), output


def texts(store: Store) -> dict[str, str]:
    rows = [row for split in ("train", "heldout") for row in read_corpus_split(store, split).to_pylist()]
    return {Path(row["uri"]).name: row["text"] for row in rows}


def set_aside(store: Store) -> dict[str, tuple[str, str]]:
    files = store.read_json("manifest.json")["files"]
    rows = [
        row
        for name, entry in files.items()
        if name.startswith("quarantine/")
        for row in read_table(store, name, entry["sha256"]).to_pylist()
    ]
    return {Path(row["uri"]).name: (row["reason"], Path(row["detail"]).name) for row in rows}


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.corpus.comparing, "run_partitions", partitions_here)


def test_the_first_document_keeps_what_it_shares(tmp_path: Path) -> None:
    sources = {
        "web": [
            {"text": f"{own('iron')}\n\n{NOTICE}"},
            {"text": f"{NOTICE.upper()}\n\n{own('zinc')}\n\n{NOTICE}"},
            {"text": f"Heading\n\n{NOTICE}"},
            {"text": f"{own('lead')}\n{OTHER}"},  # no empty line: each line is a paragraph
            {"text": own("gold")},
        ],
        "more": [{"text": f"{OTHER}\n\n{own('iron')}\n\n{own('tin')}\n\nHeading"}, {"text": own("gold")}],
    }
    summary, store = build(tmp_path, sources)
    assert texts(store) == {
        "web.jsonl#1": f"{own('iron')}\n\n{NOTICE}",
        "web.jsonl#2": own("zinc"),
        "web.jsonl#4": f"{own('lead')}\n{OTHER}",
        "web.jsonl#5": own("gold"),
        "more.jsonl#1": f"{own('tin')}\n\nHeading",
    }
    # The exact copy is one, and not a text without anything of its own.
    assert set_aside(store) == {
        "web.jsonl#3": (REASON, "web.jsonl#1"),
        "more.jsonl#2": ("duplicate", "web.jsonl#5"),
    }
    assert summary.quarantined == {"duplicate": 1, REASON: 1}
    gone = [f"{NOTICE}\n\n", f"\n\n{NOTICE}", f"{OTHER}\n\n", f"{own('iron')}\n\n"]
    assert summary.stripped == {KIND: sum(map(len, gone))}
    assert summary.characters == sum(map(len, texts(store).values()))


def test_what_is_short_stays(tmp_path: Path) -> None:
    name = "Department of Medicine, University Hospital"
    lines = [f"Line {number} of a list with short lines" for number in range(4)]
    sources = {
        "web": [
            {"text": f"{name}\n\n{own('iron')}\n\n{NOTICE}"},
            {"text": f"{name}\n\n{own('zinc')}"},
            {"text": "\n\n".join([*lines, NOTICE])},  # all that is its own are short lines, and many of them
        ]
    }
    _, store = build(tmp_path, sources)
    assert texts(store)["web.jsonl#2"] == f"{name}\n\n{own('zinc')}"
    assert texts(store)["web.jsonl#3"] == "\n\n".join(lines)
    _, store = build(tmp_path / "shorter", sources, minimum_characters=20)
    assert texts(store)["web.jsonl#2"] == own("zinc")


def test_a_refrain_stays_and_so_does_indentation(tmp_path: Path) -> None:
    song = f"    {own('iron')}\n\n{NOTICE}\n\n{own('zinc')}\n\n{NOTICE}"
    sources = {"web": [{"text": song}, {"text": f"    {own('lead')}\n\n{NOTICE}\n\n{' ' * 120}\n\n{NOTICE}"}]}
    path = write_jsonl(tmp_path / "web.jsonl", sources["web"])
    stage = CorpusStage.model_validate(
        {
            "stage": "corpus", "partitions": 2, "heldout_fraction": 0, "repeated_paragraphs": {},
            "sources": {"web": {"path": str(path), "licence": "CC0-1.0"}},
            "cleaning": {"minimum_characters": 60, "collapse_whitespace": False},
        }
    )  # fmt: skip
    build_corpus(stage, Store(str(tmp_path / "corpus")), lambda *_: None)
    assert texts(Store(str(tmp_path / "corpus"))) == {
        "web.jsonl#1": song,
        "web.jsonl#2": f"    {own('lead')}\n\n{' ' * 120}",
    }


def test_questions_repeat_each_other_on_purpose(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": NOTICE}, {"role": "assistant", "content": own(name)}]}
        for name in ("iron", "zinc", "lead")
    ]
    _, store = build(tmp_path, {"asked": rows, "web": [{"text": f"{NOTICE}\n\n{own('gold')}"}]})
    assert len(texts(store)) == 4
    assert texts(store)["web.jsonl#1"] == f"{NOTICE}\n\n{own('gold')}"


@pytest.mark.parametrize("seed", range(4))
def test_every_paragraph_is_there_once_in_any_order_of_files(tmp_path: Path, seed: int) -> None:
    generator = random.Random(seed)
    pool = [own(f"{seed}-{number}") for number in range(40)]
    rows: list[Any] = [{"text": "\n\n".join(generator.sample(pool, k=generator.randint(1, 6)))} for _ in range(60)]
    _, store = build(tmp_path / "one", {"a": rows[:20], "b": rows[20:]})
    kept = [part for text in texts(store).values() for part in text.split("\n\n")]
    assert sorted(kept) == sorted({part for row in rows for part in row["text"].split("\n\n")})
    manifest = store.read_json("manifest.json")
    assert manifest["train"] + manifest["heldout"] + sum(manifest["quarantined"].values()) == len(rows)

    def shuffled(units: list[Any], *rest: Any) -> list[Any]:
        return partitions_here(generator.sample(units, len(units)), *rest)

    with pytest.MonkeyPatch.context() as other:
        other.setattr(jobs.corpus.comparing, "run_partitions", shuffled)
        _, again = build(tmp_path / "one", {"a": rows[:20], "b": rows[20:]})
    assert json.dumps(again.read_json("manifest.json")) == json.dumps(manifest)
