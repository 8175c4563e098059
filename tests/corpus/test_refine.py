"""What a document loses on its way into the corpus: page layout, bad texts by rule, personal data; each counted, nothing else."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cluster.storage import Store
from configs.schema.corpus import CorpusStage
from jobs.corpus.inputs import find_inputs
from jobs.corpus.reading import partition_reader, read_units
from jobs.corpus.schema import read_table
from jobs.corpus.writing import AUDIT_SCHEMA, partition_writer

PAPER = """A study of small things
Mina Halvorsen1, Otto Brandt2
1 Department of Invention, University of Nowhere, Nowhere City, Country
2 Institute of Examples, Example Town
Received 3 May 2020; accepted 4 June 2020

We measured small things in many places and wrote to mina@halvorsen-lab.org about them, because the question is old and
nobody had an answer to it that could be repeated by others in the field with other instruments.

References
1. Halvorsen M, Brandt O. Small things. J Invent. 2019;4(2):11-19. doi:10.0000/inv.2019.11
2. Brandt O. Other things. J Invent. 2018;3(1):1-9.
3. Halvorsen M. Things again. J Invent. 2017;2(1):21-29.
4. Brandt O, Halvorsen M. Large things. J Invent. 2016;1(1):31-39.
5. Brandt O. No things. J Invent. 2015;1(2):41-49.
"""
TALK = {
    "messages": [
        {"role": "user", "content": "Call +44 20 7946 0958?"},
        {"role": "assistant", "content": "Yes, ask there."},
    ]
}
SALT = b"0123456789abcdef-of-a-test"


def built(tmp_path: Path, salt: bytes = b"", **settings: Any) -> tuple[dict[str, Any], dict[str, pa.Table]]:
    """The report of a one-partition corpus and its tables."""
    (tmp_path / "paper.txt").write_text(PAPER)
    (tmp_path / "short.txt").write_text("Too few words to be judged well, but long enough to be kept.")
    (tmp_path / "talk.jsonl").write_text(json.dumps(TALK) + "\n")
    texts = {"path": str(tmp_path / "*.txt"), "format": "text", "licence": "CC0-1.0", "layout": {"document": "paper"}}
    talks = {"path": str(tmp_path / "talk.jsonl"), "licence": "CC0-1.0"}
    values = {
        "stage": "corpus", "sources": {"texts": texts, "talks": talks}, "cleaning": {"minimum_characters": 10}, "partitions": 1,
        "heldout_fraction": 0, **settings,
    }  # fmt: skip
    stage = CorpusStage.model_validate(values)
    read, store = partition_reader(stage, salt), Store(str(tmp_path / "out"))
    candidates = pa.concat_tables(
        [table for unit in read_units(stage, find_inputs(stage, tmp_path)) for table in read(unit)]
    )
    report = partition_writer(stage, store, lambda: None)(0, candidates)
    files = report["files"]
    return report, {name.split("/")[0]: read_table(store, name, entry["sha256"]) for name, entry in files.items()}


def test_layout_goes_from_texts_and_is_counted(tmp_path: Path) -> None:
    report, tables = built(tmp_path)
    paper = next(text for text in tables["train"]["text"].to_pylist() if text.startswith("A study"))
    assert "Halvorsen1" not in paper and "doi:10" not in paper and "We measured small things" in paper
    assert report["stripped"]["references"] > 100 and report["stripped"]["author_lists"] > 10
    assert report["personal"] == {} and "personal" not in tables


def test_rules_set_texts_aside_and_leave_conversations_alone(tmp_path: Path) -> None:
    report, tables = built(tmp_path, quality={"min_words": 20})
    assert report["quarantined"] == {"quality_min_words": 1}
    assert tables["quarantine"]["detail"].to_pylist() == ["min_words 20: 13"]
    assert report["documents"]["train"] == 2


@pytest.mark.parametrize("salt", [b"", SALT])
def test_personal_data_becomes_placeholders_and_an_audit_needs_a_salt(tmp_path: Path, salt: bytes) -> None:
    report, tables = built(tmp_path, salt, pii={"tier": "patterns"})
    assert report["personal"] == {"email": 1, "phone": 1}
    written = json.dumps([table.to_pylist() for table in tables.values()])
    assert "mina@" not in written and "7946" not in written and "[EMAIL]" in written and "Call [PHONE]?" in written
    messages = next(json.loads(row) for row in tables["train"]["messages"].to_pylist() if row)
    assert messages[0]["content"] == "Call [PHONE]?"
    if not salt:
        assert "personal" not in tables
        return
    assert tables["personal"].schema == AUDIT_SCHEMA
    assert {row["kind"]: len(row["digest"]) for row in tables["personal"].to_pylist()} == {"email": 32, "phone": 32}
    assert {*tables["personal"]["document_id"].to_pylist()} <= {*tables["train"]["document_id"].to_pylist()}
