"""Looks into the Parquet files of an artifact of any size: seeded, and bounded in rows, requests and memory.

    files of the manifest --seed--> those of a few partitions --first rows of a seeded row group--> batches of rows

A hash decides in which partition a row of an artifact is, and documents lie in the order of their hashes. So rows that lie side
by side are as random a sample of documents as any others, and none has to be read to be passed over.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.storage import Store
from jobs.corpus.schema import DataError

PARTITIONS_READ = 8
"""Of each kind of files at most so many: opening one costs some requests, and more would make no better sample."""
ROWS_AT_ONCE = 128
"""Of texts, which may be long."""
BUFFER_BYTES = 1 << 20
"""Of one request: about a page of Parquet, so that a look at a file of gigabytes reads some megabytes."""

Files = Mapping[str, Mapping[str, Any]]
"""`files` of a manifest: by name sha256, size and rows."""


@dataclass(frozen=True)
class Excerpt:
    """Some rows of an artifact; nothing is read before `batches`."""

    store: Store
    columns: list[str]
    seed: int
    files: Files
    quotas: dict[str, int]
    """Rows to be read, by file."""
    of: int
    """Rows of all the files."""
    rows_at_once: int

    @property
    def rows(self) -> int:
        return sum(self.quotas.values())

    def batches(self) -> Iterator[tuple[str, pa.RecordBatch]]:
        """(file, rows), one batch in memory at a time. Raises DataError where a file is missing or is no Parquet file."""
        for name, rows in self.quotas.items():
            if rows:
                for batch in self._file_batches(name, rows):
                    yield name, batch

    def _file_batches(self, name: str, rows: int) -> Iterator[pa.RecordBatch]:
        try:
            file = pq.ParquetFile(
                io.BufferedReader(_StoredFile(self.store, name, int(self.files[name]["size"])), BUFFER_BYTES),
                buffer_size=BUFFER_BYTES,
                pre_buffer=False,
            )
            groups = file.metadata.num_row_groups
            first = int(np.random.default_rng([self.seed, *name.encode()]).integers(groups))
            order = [(first + number) % groups for number in range(groups)]
            for batch in file.iter_batches(
                self.rows_at_once, row_groups=order, columns=self.columns, use_threads=False
            ):
                yield batch.slice(0, rows)
                rows -= batch.num_rows
                if rows <= 0:
                    return
        except FileNotFoundError as error:
            raise DataError(
                f"{self.store.path(name)} is missing; remove the artifact and run again to rebuild it"
            ) from error
        except (pa.ArrowException, OSError) as error:  # what a broken header raises is an OSError
            raise DataError(
                f"{self.store.path(name)} is damaged ({error}); remove the artifact and run again"
            ) from error


def look(
    store: Store,
    files: Files,
    folders: Sequence[str],
    rows: int,
    columns: list[str],
    seed: int,
    rows_at_once: int = ROWS_AT_ONCE,
) -> Excerpt:
    """At most `rows` rows of the Parquet files in some folders of an artifact; all of them where there are no more and they lie
    in few partitions."""
    there = {name: int(entry["rows"]) for name, entry in files.items() if name.partition("/")[0] in folders}
    partitions = sorted({PurePosixPath(name).name for name in there})
    chosen = {partitions[n] for n in np.random.default_rng(seed).permutation(len(partitions))[:PARTITIONS_READ]}
    inside = {name: count for name, count in sorted(there.items()) if PurePosixPath(name).name in chosen}
    return Excerpt(store, columns, seed, files, _quotas(inside, rows), sum(there.values()), rows_at_once)


def _quotas(there: Mapping[str, int], rows: int) -> dict[str, int]:
    """How many rows to read of each file, so that each has its share; the largest remainders are rounded up."""
    total = sum(there.values())
    if total <= rows:
        return dict(there)
    shares = {name: count * rows / total for name, count in there.items()}
    quotas = {name: int(share) for name, share in shares.items()}
    rest = sorted(shares, key=lambda name: (quotas[name] - shares[name], name))
    for name in rest[: rows - sum(quotas.values())]:
        quotas[name] += 1
    return quotas


class _StoredFile(io.RawIOBase):
    """A file of a store as one that can be sought in: every read is one request for its range."""

    def __init__(self, store: Store, name: str, size: int) -> None:
        self._store, self._name, self._size, self._place = store, name, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = start + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        length = max(0, min(len(buffer), self._size - self._place))
        data = self._store.read_range(self._place, length, self._name) if length else b""
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)
