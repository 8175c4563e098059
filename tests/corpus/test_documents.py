"""Cleaning, dedup, split, inputs: what happens to a document before it is written."""

import hashlib
import random
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema.corpus import Cleaning, CorpusStage, Source
from jobs.corpus.clean import clean_document, clean_text
from jobs.corpus.dedup import drop_duplicates
from jobs.corpus.inputs import estimate_tokens, find_inputs
from jobs.corpus.raw import Raw, RowError
from jobs.corpus.schema import DataError, document_id_of, partition_of, text_sha256
from jobs.corpus.split import is_heldout


def test_clean_repairs_unicode_and_whitespace():
    assert clean_text("  Gro\u0308ße \t x\r\n \u2028\n\n\ny\x0c ", Cleaning()) == "Größe x\n\ny"
    assert clean_text("a  b\r\n", Cleaning(unicode="none", collapse_whitespace=False)) == "a  b\r\n"


@given(st.text(alphabet=st.sampled_from("a b\n\r\t\u2028\x85\u00a0\u0308o\x0c"), max_size=30))
def test_cleaning_twice_is_cleaning_once(text: str):
    once = clean_text(text, Cleaning())
    assert clean_text(once, Cleaning()) == once


def test_short_documents_and_empty_messages_are_refused():
    with pytest.raises(RowError) as short:
        clean_document(Raw("u", "x" * 199 + " ", None), Cleaning())
    assert short.value.reason == "too_short"
    with pytest.raises(RowError) as empty:
        clean_document(Raw("u", "long enough", [{"role": "user", "content": " "}]), Cleaning(minimum_characters=5))
    assert empty.value.reason == "empty_message"


def test_the_survivor_does_not_depend_on_the_order_of_rows():
    rows = [("aa", 1, "a#1"), ("aa", 0, "z#9"), ("aa", 0, "z#10"), ("bb", 1, "a#2"), ("cc", 0, "b"), ("cc", 0, "a")]
    for seed in range(20):
        random.Random(seed).shuffle(rows)
        sha256, order, uris = zip(*rows, strict=True)
        result = drop_duplicates(pa.table({"sha256": sha256, "source_order": order, "uri": uris}))
        assert result.survivors["uri"].to_pylist() == ["z#10", "a#2", "a"]
        assert result.duplicates.select(["uri", "survivor_uri"]).to_pylist() == [
            {"uri": "z#9", "survivor_uri": "z#10"},
            {"uri": "a#1", "survivor_uri": "z#10"},
            {"uri": "b", "survivor_uri": "a"},
        ]


def test_the_split_keeps_its_share_and_only_grows():
    hashes = [text_sha256(str(n)) for n in range(20_000)]
    held_2 = {sha256 for sha256 in hashes if is_heldout(sha256, 0.02, 0)}
    held_5 = {sha256 for sha256 in hashes if is_heldout(sha256, 0.05, 0)}
    other_seed = {sha256 for sha256 in hashes if is_heldout(sha256, 0.02, 1)}
    # 400 expected; four standard deviations of a binomial are 79.
    assert 321 <= len(held_2) <= 479
    assert held_2 < held_5
    assert len(held_2 & other_seed) < 40
    assert not any(is_heldout(sha256, 0.0, 0) for sha256 in hashes)
    assert all(is_heldout(sha256, 1.0, 0) for sha256 in hashes)


def test_document_ids_are_the_first_eight_bytes_of_the_hash():
    digest = hashlib.sha256(b"abc").digest()  # ba7816bf 8f01cfea ...: negative as a signed integer
    assert document_id_of(text_sha256("abc")) == int.from_bytes(digest[:8], "big") - 2**64
    assert partition_of(-1, 8) == 7


def stage_of(**sources: Source) -> CorpusStage:
    return CorpusStage(stage="corpus", sources=sources)


def test_inputs_are_found_sorted_and_fingerprinted(tmp_path: Path):
    for name in ("docs/b.txt", "docs/a.txt", "docs/deep/c.md", "docs/skipped.bin", "rows/x.jsonl", "odd.data"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    stage = stage_of(
        rows=Source(path="rows/*", format="jsonl", licence="MIT"),
        docs=Source(path="docs", format="text", licence="CC0-1.0"),
        odd=Source(path=str(tmp_path / "odd.data"), format="text", licence="CC0-1.0"),
    )
    inputs = find_inputs(stage, tmp_path)
    assert [(file.source, file.uri) for file in inputs] == [
        ("rows", "rows/x.jsonl"), ("docs", "docs/a.txt"), ("docs", "docs/b.txt"), ("docs", "docs/deep/c.md"), ("odd", "odd.data"),
    ]  # fmt: skip
    assert inputs[0].fingerprint == "sha256:" + hashlib.sha256(b"rows/x.jsonl").hexdigest()
    assert (inputs[0].size, inputs[0].location) == (12, str(tmp_path / "rows/x.jsonl"))
    assert estimate_tokens(stage, inputs) == {"rows": 2, "docs": 2 + 2 + 3, "odd": 1}


def test_a_source_that_matches_nothing_is_named(tmp_path: Path):
    stage = stage_of(papers=Source(path="papers", format="pubmed", licence="MIT"))
    with pytest.raises(DataError, match=r"sources\.papers\.path: nothing found at papers .*\.xml\.gz"):
        find_inputs(stage, tmp_path)
