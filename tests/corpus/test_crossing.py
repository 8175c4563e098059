"""Documents of the inputs of a mix: on one side of the split, and found again in its rows."""

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from cluster.storage import Store
from configs.schema.gate import Gate
from jobs.corpus.document_rows import DOCUMENT_ROWS_SCHEMA, DOCUMENTS, documents_file, rows_of_documents
from jobs.corpus.gate import sealed
from jobs.corpus.schema import DataError, read_table
from tests.corpus.mixes import STAGE, entry, mixed, read_rows, stored, three_inputs, write_shards


def test_documents_are_found_in_the_rows_of_a_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = three_inputs(tmp_path)
    output = Store(str(tmp_path / "out"))
    mixed(monkeypatch, inputs, output, **STAGE)
    told = Counter()
    for name, written in output.read_json("manifest.json")["files"].items():
        if name.startswith(DOCUMENTS):
            table = read_table(output, name, written["sha256"])
            for each in table.to_pylist():
                found = read_rows(output, each["split"], int(name[-13:-8]))[each["row"]]
                assert found["document_ids"] == [each["document_id"]] and len(found["input_ids"]) == each["tokens"]
                told[each["split"]] += each["rows"]
    known = [row["document_ids"][0] for row in stored(output, "train")][:3]
    found = rows_of_documents(output, known).to_pylist()
    assert {row["document_id"] for row in found} == set(known)
    for row in found:
        assert read_rows(output, row["split"], row["shard"])[row["row"]]["document_ids"] == [row["document_id"]]
    assert told == {split: len(stored(output, split)) for split in ("train", "heldout")}


def test_what_one_input_holds_out_none_trains_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = three_inputs(tmp_path)
    held = write_shards(Store(str(tmp_path / "held")), "papers", 30)
    manifest = held.read_json("manifest.json")
    for shard in range(2):
        name = documents_file(shard)
        rows = read_table(held, name, manifest["files"][name]["sha256"]).to_pylist()
        # As if a corpus with another seed held these out; within one input that may be.
        rows = [
            {**row, "document_id": -row["document_id"] - 1 if row["document_id"] < 0 else row["document_id"]}
            for row in rows
        ]
        rows += [{**row, "row": row["row"] + 5} for row in rows]  # in several stretches
        manifest["files"] |= entry(held, name, pa.Table.from_pylist(rows, schema=DOCUMENT_ROWS_SCHEMA))
    manifest["gate"] = sealed(Gate(), {"public CC0-1.0": 30}, manifest["files"])
    held.write_json("manifest.json", manifest)
    out = Store(str(tmp_path / "out"))
    mixed(monkeypatch, {"held": held, "wiki": inputs["wiki"]}, out, shares={"held": 0.5, "wiki": 0.5})
    with pytest.raises(DataError, match="4 documents that held holds out are trained on in papers.*heldout_fraction"):
        mixed(monkeypatch, {"held": held, "papers": inputs["papers"]}, out, shares={"papers": 0.5, "held": 0.5})


def test_documents_that_two_inputs_train_on_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = three_inputs(tmp_path)
    again = write_shards(Store(str(tmp_path / "again")), "papers", 12)  # 12 of the 30 documents of papers
    out = Store(str(tmp_path / "out"))
    twice = {"papers": inputs["papers"], "again": again, "wiki": inputs["wiki"]}
    summary, said = mixed(monkeypatch, twice, out, shares={"papers": 0.5, "again": 0.2, "wiki": 0.3})
    assert summary.shared == {"again and papers": 12} == out.read_json("manifest.json")["shared"]
    assert any("12 documents are in the training rows of both again and papers" in line for line in said)
    apart, said = mixed(monkeypatch, inputs, Store(str(tmp_path / "apart")), **STAGE)
    assert apart.shared == {} and not any("in the training rows of both" in line for line in said)
