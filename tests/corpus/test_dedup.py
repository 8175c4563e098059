import random

import pyarrow as pa

from jobs.corpus.dedup import drop_duplicates


def test_the_survivor_does_not_depend_on_the_order_of_rows():
    rows = [("aa", 1, "a#1"), ("aa", 0, "z#9"), ("aa", 0, "z#10"), ("bb", 1, "a#2"), ("cc", 0, "b"), ("cc", 0, "a")]
    for seed in range(20):
        random.Random(seed).shuffle(rows)
        sha256, order, uris = zip(*rows, strict=True)
        result = drop_duplicates(pa.table({"sha256": sha256, "precedence": order, "uri": uris}))
        assert result.survivors["uri"].to_pylist() == ["z#10", "a#2", "a"]
        assert result.duplicates.select(["uri", "survivor_uri"]).to_pylist() == [
            {"uri": "z#9", "survivor_uri": "z#10"},
            {"uri": "a#1", "survivor_uri": "z#10"},
            {"uri": "b", "survivor_uri": "a"},
        ]
