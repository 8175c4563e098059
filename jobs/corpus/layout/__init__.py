"""Text of PDF and HTML -> the text without what belonged to the page.

text -> unicode repair -> running headers, page numbers -> boilerplate -> contents -> front matter -> references
     -> broken words joined -> again, until a round finds nothing -> Stripped

Conservative: a kind is stripped only where several signs agree, and code is left alone as a whole. Every finder looks first
for a sign that costs little (a character, a heading), so that text with nothing to strip passes at the speed of a search.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from configs.schema.layout import Layout, LayoutKind
from jobs.corpus.layout.boilerplate import find_boilerplate
from jobs.corpus.layout.contents import find_contents
from jobs.corpus.layout.front_matter import find_front_matter
from jobs.corpus.layout.hyphenation import joined_words
from jobs.corpus.layout.lines import Lines, is_code, numbered_lines
from jobs.corpus.layout.pages import find_page_ends
from jobs.corpus.layout.references import find_references
from jobs.corpus.layout.unicode import is_suspect, repaired

Find = Callable[[Lines], dict[int, LayoutKind]]
"""Takes the lines that are left; gives what some of them are, by index."""

FINDERS: tuple[tuple[Find, frozenset[LayoutKind]], ...] = (
    (find_page_ends, frozenset({"running_headers", "page_numbers"})),
    (find_boilerplate, frozenset({"boilerplate"})),
    (find_contents, frozenset({"tables_of_contents"})),
    (find_front_matter, frozenset({"author_lists", "affiliations"})),
    (find_references, frozenset({"references"})),
)
"""Each finds its lines more easily without those before it: a list of references runs on below a page's header."""


@dataclass(frozen=True, slots=True)
class Removed:
    """Neighbouring lines of one kind, or one change inside a line.

    Example:
        Removed(kind="references", first_line=412, lines=58, characters=4711)
    """

    kind: LayoutKind
    first_line: int
    """From 1, in the text that was given; a form feed ends a line as a line feed does."""
    lines: int
    characters: int
    """Without line ends. Of a broken word: its hyphen, 0 where the hyphen stays; of repaired unicode: by how much
    the line is shorter, negative where it is longer."""


@dataclass(frozen=True, slots=True)
class Stripped:
    """The text that is left and what was taken, by line. Example: Stripped("Iron ...", [Removed("page_numbers", 61, 1, 2)])"""

    text: str
    removed: list[Removed]


def strip_layout(text: str, layout: Layout) -> Stripped:
    """The text without the layout's kinds. Where nothing is found it is the same text to the last space and form feed.

    Idempotent: stripping what is left finds nothing.
    """
    kinds = layout.kinds
    if not kinds or is_code(text):
        return Stripped(text, [])
    lines, removed = numbered_lines(text), []
    while True:
        left, found = _round(lines, set(kinds))
        if not found:
            break
        lines, removed = left.unpaged(), removed + found
    if not removed:
        return Stripped(text, [])
    return Stripped(lines.text, sorted(removed, key=lambda item: (item.first_line, item.kind)))


def _round(lines: Lines, kinds: set[LayoutKind]) -> tuple[Lines, list[Removed]]:
    removed: list[Removed] = []
    if "unicode_repair" in kinds:
        lines, removed = _repaired(lines)
    for find, finds in FINDERS:
        if finds & kinds:
            found: dict[int, LayoutKind] = {index: kind for index, kind in find(lines).items() if kind in kinds}
            removed += _removed(lines, found)
            lines = lines.without(set(found)) if found else lines
    if "hyphenation" in kinds:
        lines, words = joined_words(lines)
        removed += [Removed("hyphenation", word.line, 2, word.hyphens_removed) for word in words]
    return lines, removed


def _repaired(lines: Lines) -> tuple[Lines, list[Removed]]:
    if not is_suspect(lines.text):
        return lines, []
    texts = [repaired(text) for text in lines.texts]
    changed = [index for index, (old, new) in enumerate(zip(lines.texts, texts, strict=True)) if old != new]
    return Lines(texts, lines.numbers, lines.pages), [
        Removed("unicode_repair", lines.numbers[index], 1, len(lines.texts[index]) - len(texts[index]))
        for index in changed
    ]


def _removed(lines: Lines, found: dict[int, LayoutKind]) -> list[Removed]:
    """One entry for neighbouring lines of a kind."""
    removed: list[Removed] = []
    for index in sorted(found):
        number, characters = lines.numbers[index], len(lines.texts[index])
        last = removed[-1] if removed else None
        if last and last.kind == found[index] and last.first_line + last.lines == number:
            removed[-1] = replace(last, lines=last.lines + 1, characters=last.characters + characters)
        else:
            removed.append(Removed(found[index], number, 1, characters))
    return removed
