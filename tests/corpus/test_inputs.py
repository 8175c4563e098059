import hashlib
from pathlib import Path

import pytest

from configs.schema.corpus import CorpusStage, Source
from jobs.corpus.inputs import estimate_tokens, find_inputs
from jobs.corpus.schema import DataError


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
