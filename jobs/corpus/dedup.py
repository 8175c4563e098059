"""Exact duplicates by content hash. The survivor follows from the data alone: smallest (precedence, uri)."""

# pyarrow.compute makes its functions when it is imported:
# pyright: reportAttributeAccessIssue=false

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.schema.licences import either

KEYS = ["sha256", "precedence", "uri", "licence", "confidentiality"]
"""What it takes to tell copies: texts are moved once, when it is known which stay."""


@dataclass(frozen=True)
class Deduplicated:
    """Numbers of rows, by sha256.

    Example:
        of texts "b", "a", "a": Deduplicated(survivors=[1, 0], licences=["MIT", "MIT"], duplicates=[2], survivor_uri=["a#1"])
    """

    survivors: np.ndarray
    licences: pa.Array
    """Of the survivors, those of their copies added."""
    duplicates: np.ndarray
    survivor_uri: pa.Array
    """Of the duplicates."""


def drop_duplicates(keys: pa.Table) -> Deduplicated:
    """The first row of each sha256, and the rest.

    A text that came by several licences may be used by any of them: its survivor has `A OR B`, of those that are as
    confidential as itself.

    Args:
        keys: the columns KEYS. All copies of a text must be among the rows: equal hashes mean equal ids, hence one partition.
    """
    order = pc.sort_indices(keys, [(name, "ascending") for name in ("sha256", "precedence", "uri")])
    ordered = keys.take(order).combine_chunks()
    survivor_row = first_of_equals(ordered["sha256"].to_numpy(zero_copy_only=False))
    is_first = survivor_row == np.arange(len(survivor_row))
    licences, uris, rows = _licences(ordered, survivor_row), ordered["uri"].combine_chunks(), order.to_numpy()
    return Deduplicated(
        rows[is_first],
        licences.filter(pa.array(is_first)),
        rows[~is_first],
        uris.take(pa.array(survivor_row[~is_first])),
    )


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
