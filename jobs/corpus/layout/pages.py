"""Running headers, footers and page numbers: lines that repeat, or count, where pages begin and end.

with form feeds --page_breaks--> labels
without --page_gaps--> labels
"""

from configs.schema.layout import LayoutKind
from jobs.corpus.layout.lines import Lines, continues, next_filled
from jobs.corpus.layout.page_breaks import at_page_breaks
from jobs.corpus.layout.page_gaps import between_sentences
from jobs.corpus.layout.page_lines import FEWEST


def find_page_ends(lines: Lines) -> dict[int, LayoutKind]:
    """Index -> running_headers or page_numbers; empty lines inside a sentence that they cut go with them."""
    if lines.pages and lines.pages[-1] - lines.pages[0] >= FEWEST - 1:
        found = at_page_breaks(lines)
    else:
        found = between_sentences(lines)
    return found | _empty_lines_around(lines.texts, found)


def _empty_lines_around(texts: list[str], found: dict[int, LayoutKind]) -> dict[int, LayoutKind]:
    empty: dict[int, LayoutKind] = {}
    for index, kind in found.items():
        before, after = next_filled(texts, index - 1, -1, found), next_filled(texts, index + 1, 1, found)
        if before is not None and after is not None and continues(texts[before], texts[after]):
            empty.update({between: kind for between in range(before + 1, after) if between not in found})
    return empty
