"""Mojibake, ligatures and control characters that an extractor left, mended by ftfy (Speer 2019, doi:10.5281/zenodo.2591652)."""

import re

import ftfy
from ftfy.badness import is_bad

SUSPECT = re.compile(
    "[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ud800-\udfff\u0132\u0133\u0149\u01c4-\u01cc\u01f1-\u01f3\ufb00-\ufb06\u206a-\u206f\ufeff\ufff9-\ufffc]"
)
"""Control characters, surrogates, ligatures and marks: without them, and without mojibake, ftfy changes nothing here."""
MOJIBAKE = re.compile(r"[^\x00-\x7f](?:[^\x00-\x7f]|(?<=[ÂÃâà]) )")
"""UTF-8 read as another encoding is two characters at least that are not ASCII, or a letter before what was a space without a
break. ftfy's own test for it is slower than everything else here together (5 MB/s)."""
CONFIG = ftfy.TextFixerConfig(
    unescape_html=False,  # "&lt;" in a text about HTML is meant
    uncurl_quotes=False,  # “ and ’ are no damage
    fix_character_width=False,  # full width is how Chinese and Japanese set their punctuation
    fix_line_breaks=False,  # line ends were read already
    remove_terminal_escapes=False,
    normalization=None,  # cleaning.unicode decides
    explain=False,
)
BROKEN_WORD = re.compile(r"\x02(?=\s*$)|(?<=[^\W\d_])\x02(?=[^\W\d_])")
"""PDFium's mark of a broken word looks like a control character: hyphenation needs it."""


def is_suspect(text: str) -> bool:
    """Whether ftfy may change the text."""
    return SUSPECT.search(text) is not None or (MOJIBAKE.search(text) is not None and is_bad(text))


def repaired(text: str) -> str:
    """One line, mended. Repairing it again changes nothing."""
    if not is_suspect(text):
        return text
    while True:
        mended = ftfy.fix_text(BROKEN_WORD.sub("\ufffe", text), CONFIG)
        if mended == text:
            return text
        text = mended
