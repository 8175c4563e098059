"""PDF files -> their text layer, pages joined by form feeds (jobs/corpus/guarded_child.py does it)."""

from typing import BinaryIO

from jobs.corpus.guarded import guarded_text
from jobs.corpus.raw import Raw
from jobs.corpus.unpack import whole


def read_pdf(file: BinaryIO, uri: str) -> Raw:
    """The file as one document. Raises RowError: `encrypted`, `broken_pdf`, `no_text` (scanned), or a limit's."""
    return Raw(uri, guarded_text("pdf", whole(file)), None, format="pdf")
