"""A document whose lines are labelled with what they are, and how a stripper did on it.

labelled lines --text--> strip_layout --removed lines--> hits, false alarms and misses by kind
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from configs.schema.layout import Layout, LayoutKind
from jobs.corpus.layout import Stripped, strip_layout

BODY = "body"
JOINED, KEPT = "~", "="
"""Marks behind a label: the line ends in a broken word, which is whole without its hyphen, or with it."""
PAGE_BREAK = "page_break"
LINE_KINDS: tuple[LayoutKind, ...] = (
    "author_lists", "affiliations", "tables_of_contents", "running_headers", "page_numbers", "references", "boilerplate",
)  # fmt: skip


@dataclass(frozen=True)
class Labelled:
    """Lines as (label, text). Example: Labelled("note", [("body~", "the micro-"), ("body", "scope"), ("page_numbers", "3")])"""

    name: str
    lines: list[tuple[str, str]]
    page_break: str = "\n\f"
    """What an extractor writes between pages: pdftotext a form feed before the next page's first line."""

    @property
    def text(self) -> str:
        pages: list[list[str]] = [[]]
        for label, text in self.lines:
            if label == PAGE_BREAK:
                pages.append([])
            else:
                pages[-1].append(text)
        return self.page_break.join("\n".join(page) for page in pages)

    def labels(self) -> dict[int, str]:
        """By line number from 1; page breaks are no lines."""
        return {number: label for number, (label, _) in enumerate(filter(lambda x: x[0] != PAGE_BREAK, self.lines), 1)}


@dataclass
class Counts:
    """Lines (of hyphenation: broken words) of one kind. Example: Counts(hits=98, false_alarms=1, misses=2)"""

    hits: int = 0
    false_alarms: int = 0
    misses: int = 0
    examples: list[str] = field(default_factory=list)
    """The first false alarms and misses, for people."""

    @property
    def precision(self) -> float:
        return self.hits / (self.hits + self.false_alarms) if self.hits + self.false_alarms else 1.0

    @property
    def recall(self) -> float:
        return self.hits / (self.hits + self.misses) if self.hits + self.misses else 1.0


def score(documents: Iterable[Labelled], layout: Layout) -> dict[str, Counts]:
    """By kind; a line that is taken for another kind is a false alarm of the one and a miss of the other."""
    counts = {kind: Counts() for kind in (*LINE_KINDS, "hyphenation")}
    for document in documents:
        stripped = strip_layout(document.text, layout)
        _count_lines(document, stripped, counts)
        _count_hyphens(document, stripped, counts["hyphenation"])
    return counts


def _count_lines(document: Labelled, stripped: Stripped, counts: dict[str, Counts]) -> None:
    found: dict[int, str] = {}
    for removed in stripped.removed:
        if removed.kind in LINE_KINDS:
            found.update(dict.fromkeys(range(removed.first_line, removed.first_line + removed.lines), removed.kind))
    texts = [text for label, text in document.lines if label != PAGE_BREAK]
    for number, label in document.labels().items():
        wanted, got = label.rstrip(JOINED + KEPT), found.get(number, BODY)
        if not texts[number - 1].strip():
            continue
        if wanted == got:
            if wanted != BODY:
                counts[wanted].hits += 1
            continue
        said = f"{document.name}:{number} {wanted} as {got}: {texts[number - 1][:90]}"
        if got != BODY:
            counts[got].false_alarms += 1
            counts[got].examples.append(said)
        if wanted != BODY:
            counts[wanted].misses += 1
            counts[wanted].examples.append(said)


def _count_hyphens(document: Labelled, stripped: Stripped, counts: Counts) -> None:
    labels = document.labels()
    wanted = {
        number: JOINED if label.endswith(JOINED) else KEPT for number, label in labels.items() if label[-1:] in "~="
    }
    joined = Counter(
        (item.first_line, JOINED if item.characters else KEPT)
        for item in stripped.removed
        if item.kind == "hyphenation"
    )
    hits = sum((joined & Counter(wanted.items())).values())
    counts.hits += hits
    counts.false_alarms += joined.total() - hits
    counts.misses += len(wanted) - hits
    texts = [text for label, text in document.lines if label != PAGE_BREAK]
    wrong = (joined - Counter(wanted.items())) + (Counter(wanted.items()) - joined)
    counts.examples += [
        f"{document.name}:{n} {form}: {texts[n - 1][-30:]} / {texts[n][:20] if n < len(texts) else ''}"
        for n, form in wrong
    ]


def read_labelled(path: Path) -> Labelled:
    """A file of `label | text` lines."""
    lines: list[tuple[str, str]] = []
    for line in path.read_text().split("\n"):
        if line:
            label, bar, text = line.partition("|")
            assert bar, f"{path}: no label before {line!r}"
            lines.append((label.strip(), text.removeprefix(" ")))
    return Labelled(path.stem, lines)
