"""Words broken at the line ends of real abstracts, and how often the hyphen is wrong once they are joined.

abstract --at_hyphens--> lines that end at the writer's own hyphens
         --wrapped (words.py)--> lines that end inside words as well
"""

import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from configs.schema.layout import Layout
from jobs.corpus.layout import strip_layout
from tests.world.papers.fixtures import abstracts
from tests.world.papers.labelled import JOINED, KEPT, Labelled

LAYOUT = Layout(strip=["hyphenation"])
MEASURED = 8000
"""The first abstracts: the list of frequent words was made of the others."""


@dataclass
class Errors:
    """Example: Errors(own=970, lost=90, inside=12_500, left=65)"""

    own: int = 0
    lost: int = 0
    """Hyphens of the writer's that went."""
    inside: int = 0
    left: int = 0
    """Words that were broken and have a hyphen now."""

    def __str__(self) -> str:
        return (
            f"own hyphens lost {self.lost} of {self.own} ({self.lost / max(self.own, 1):.1%}), "
            f"hyphens left inside words {self.left} of {self.inside} ({self.left / max(self.inside, 1):.2%})"
        )


def measured(first: int, last: int) -> list[str]:
    assert last <= MEASURED, last
    return [text.replace("\n", " ") for text in abstracts()[first:last]]


def at_hyphens(text: str, width: int = 72) -> Labelled:
    lines = [*textwrap.wrap(text, width), ""]
    broken = [
        re.search(r"[^\W\d_]-$", line) is not None and re.match(r"[^\W\d_]", after) is not None
        for line, after in pairwise(lines)
    ]
    marks = [KEPT if is_broken else "" for is_broken in broken]
    return Labelled("at_hyphens", [(f"body{mark}", line) for mark, line in zip(marks, lines, strict=False)])


def hyphen_errors(documents: Iterable[Labelled]) -> Errors:
    """Of the breaks that were mended: single ones, and those of verse, are left as they are."""
    errors = Errors()
    for document in documents:
        labels = document.labels()
        for removed in strip_layout(document.text, LAYOUT).removed:
            mark = labels[removed.first_line][-1]
            if mark == KEPT:
                errors.own += 1
                errors.lost += removed.characters > 0
            elif mark == JOINED:
                errors.inside += 1
                errors.left += removed.characters == 0
    return errors
