"""One file read whole, for tests of readers."""

from pathlib import Path

from configs.schema.corpus import Source
from jobs.corpus.raw import Raw, Rejected
from jobs.corpus.readers import read_file


def read(path: Path, format: str = "auto") -> list[Raw | Rejected]:
    source = Source(path=str(path), format=format, licence="CC0-1.0")  # pyright: ignore[reportArgumentType]
    return list(read_file(str(path), path.name, source))


def one(path: Path, content: bytes | str, format: str = "auto") -> Raw | Rejected:
    """The only row of a file that is written first."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (row,) = read(path, format)
    return row


def text(row: Raw | Rejected) -> str:
    assert isinstance(row, Raw), row
    return row.text


def reason(row: Raw | Rejected) -> str:
    assert isinstance(row, Rejected), row
    return row.reason
