import random

import pyarrow as pa

from jobs.corpus.dedup import drop_duplicates


def table_of(rows: list[tuple], licences: str = "MIT", confidentiality: str = "public") -> pa.Table:
    columns = dict(
        zip(("sha256", "precedence", "uri", "licence", "confidentiality"), zip(*rows, strict=True), strict=False)
    )
    return pa.table({"licence": [licences] * len(rows), "confidentiality": [confidentiality] * len(rows), **columns})


def test_a_text_may_be_used_by_any_licence_it_came_by():
    rows = [
        ("aa", 0, "a", "MIT OR ISC", "public"), ("aa", 1, "b", "LicenseRef-x", "public"), ("aa", 2, "c", "MIT", "public"),
        ("aa", 2, "d", "CC0-1.0", "internal"), ("bb", 0, "e", "MIT", "public"), ("bb", 1, "f", "MIT", "public"),
    ]  # fmt: skip
    result = drop_duplicates(table_of(rows))
    assert result.licences.to_pylist() == ["ISC OR LicenseRef-x OR MIT", "MIT"]
    assert [rows[number][2] for number in result.duplicates] == ["b", "c", "d", "f"]


def test_the_survivor_does_not_depend_on_the_order_of_rows():
    rows = [("aa", 1, "a#1"), ("aa", 0, "z#9"), ("aa", 0, "z#10"), ("bb", 1, "a#2"), ("cc", 0, "b"), ("cc", 0, "a")]
    for seed in range(20):
        random.Random(seed).shuffle(rows)
        result = drop_duplicates(table_of(rows))
        assert [rows[number][2] for number in result.survivors] == ["z#10", "a#2", "a"]
        assert [rows[number][2] for number in result.duplicates] == ["z#9", "a#1", "b"]
        assert result.survivor_uri.to_pylist() == ["z#10", "z#10", "a"]
