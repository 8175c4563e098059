"""Rows with licences of their own, and the licence of rows that have none."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from configs.schema.corpus import Source
from jobs.corpus.raw import Raw, Rejected
from jobs.corpus.readers import read_file
from jobs.corpus.schema import DataError


def test_a_row_may_have_a_licence_of_its_own(tmp_path: Path) -> None:
    address = "https://creativecommons.org/licenses/by/4.0/"
    values = [
        "cc-by-4.0",
        None,
        "",
        "mit OR apache-2.0",
        "All rights reserved",
        7,
        "LicenseRef-ours",
        address,
        "MIT/X11",
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": "A text.", "licence": value}) + "\n" for value in values))
    for format in ("auto", "jsonl", "text_rows"):
        source = Source(path=str(path), format=format, licence="MIT", licence_column="licence")
        rows = list(read_file(str(path), "rows.jsonl", source))
        told = [row.reason if isinstance(row, Rejected) else row.licence for row in rows]
        assert told == [
            "CC-BY-4.0", None, None, "MIT OR Apache-2.0", "unknown_licence", "unknown_licence", "LicenseRef-ours",
            "unknown_licence", "unknown_licence",
        ], format  # fmt: skip
        assert {row.ignored for row in rows if isinstance(row, Raw)} == {()}
        misspelt = source.model_copy(update={"licence_column": "license"})
        with pytest.raises(DataError, match="no row has `license`, .* the nearest is `licence`"):
            list(read_file(str(path), "rows.jsonl", misspelt))
    with pytest.raises(ValidationError, match="`format: pubmed` have no columns"):
        Source(path="a.xml", format="pubmed", licence="MIT", licence_column="licence")
