"""Exact duplicates by content hash. The survivor follows from the data alone: smallest (precedence, uri)."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class Deduplicated:
    """`duplicates` has the columns of `survivors` and `survivor_uri`; rows of both are sorted by sha256."""

    survivors: pa.Table
    duplicates: pa.Table


def drop_duplicates(documents: pa.Table) -> Deduplicated:
    """Splits rows with columns sha256, precedence and uri into the first of each sha256 and the rest.

    All copies of a text must be in the table: equal hashes mean equal ids, hence one partition.
    """
    ordered = documents.sort_by([("sha256", "ascending"), ("precedence", "ascending"), ("uri", "ascending")])
    sha256 = ordered["sha256"].to_numpy(zero_copy_only=False)
    survivor_row = first_of_equals(sha256)
    is_first = survivor_row == np.arange(len(sha256))
    duplicates = ordered.append_column("survivor_uri", ordered["uri"].take(pa.array(survivor_row))).filter(
        pa.array(~is_first)
    )
    return Deduplicated(ordered.filter(pa.array(is_first)), duplicates)


def first_of_equals(ordered: np.ndarray) -> np.ndarray:
    """For every row of a sorted column the row where its value begins: a, a, b -> 0, 0, 2."""
    begins = np.ones(len(ordered), dtype=bool)
    begins[1:] = ordered[1:] != ordered[:-1]
    return np.maximum.accumulate(np.where(begins, np.arange(len(ordered)), 0))
