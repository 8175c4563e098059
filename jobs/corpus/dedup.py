"""Exact duplicates by content hash. The survivor follows from the data alone: smallest (precedence, uri)."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from configs.schema.licences import either


@dataclass(frozen=True)
class Deduplicated:
    """`duplicates` has the columns of `survivors` and `survivor_uri`; rows of both are sorted by sha256."""

    survivors: pa.Table
    duplicates: pa.Table


def drop_duplicates(documents: pa.Table) -> Deduplicated:
    """Splits rows with columns sha256, precedence, uri, licence and confidentiality into the first of each sha256 and the rest.

    A text that came by several licences may be used by any of them: its survivor has `A OR B`, of those that are as
    confidential as itself.

    All copies of a text must be in the table: equal hashes mean equal ids, hence one partition.
    """
    ordered = documents.sort_by([("sha256", "ascending"), ("precedence", "ascending"), ("uri", "ascending")])
    sha256 = ordered["sha256"].to_numpy(zero_copy_only=False)
    survivor_row = first_of_equals(sha256)
    is_first = survivor_row == np.arange(len(sha256))
    duplicates = ordered.append_column("survivor_uri", ordered["uri"].take(pa.array(survivor_row))).filter(
        pa.array(~is_first)
    )
    licences = _licences(ordered, survivor_row)
    ordered = ordered.set_column(ordered.schema.get_field_index("licence"), "licence", licences)
    return Deduplicated(ordered.filter(pa.array(is_first)), duplicates)


def _licences(ordered: pa.Table, survivor_row: np.ndarray) -> pa.Array:
    """The licence of every row, and of survivors those of their copies as well."""
    licences, confidentiality = ordered["licence"].to_pylist(), ordered["confidentiality"].to_pylist()
    several: dict[int, set[str]] = {}
    for row in np.flatnonzero(survivor_row != np.arange(len(survivor_row))).tolist():
        first = int(survivor_row[row])
        if licences[row] != licences[first] and confidentiality[row] == confidentiality[first]:
            several.setdefault(first, {licences[first]}).add(licences[row])
    for first, found in several.items():
        licences[first] = either(found)
    return pa.array(licences, ordered.schema.field("licence").type)


def first_of_equals(ordered: np.ndarray) -> np.ndarray:
    """For every row of a sorted column the row where its value begins: a, a, b -> 0, 0, 2."""
    begins = np.ones(len(ordered), dtype=bool)
    begins[1:] = ordered[1:] != ordered[:-1]
    return np.maximum.accumulate(np.where(begins, np.arange(len(ordered)), 0))
