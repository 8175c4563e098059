"""HTML pages -> title and main text (jobs/corpus/guarded_child.py does it)."""

import re
from typing import BinaryIO

from jobs.corpus.decoding import decoded
from jobs.corpus.guarded import guarded_text
from jobs.corpus.guarded_child import html_text
from jobs.corpus.raw import Raw, RowError
from jobs.corpus.unpack import whole

LONG_TAG = re.compile(r"<[^>]{4096}")
"""Room for a thousand attributes. The parser's time grows with the square of their number in one tag: 20,000 take 2 s, a megabyte
of them minutes. Pictures inside a page (data:) are as long and are quick."""
QUICK_ATTRIBUTES = 5000
"""`=` in a page, for tags that hide their end in quotes; 5000 attributes of one tag take 0.2 s."""


def read_html(file: BinaryIO, uri: str) -> Raw:
    """The page as one document. Raises RowError."""
    page = decoded(whole(file), is_html=True)
    if page.text.count("=") <= QUICK_ATTRIBUTES and not LONG_TAG.search(page.text):
        answer = html_text(page.text)
        if "reason" in answer:
            raise RowError(answer["reason"], answer["detail"])
        text = answer["text"]
    else:
        text = guarded_text("html", page.text.encode())
    return Raw(uri, text, None, format="html", encoding=page.encoding)
