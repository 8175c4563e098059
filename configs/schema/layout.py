"""What is stripped from text that came from PDF or HTML: everything that the page needed and the text does not."""

from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from configs.schema.tree import Node

LayoutKind = Literal[
    "unicode_repair", "running_headers", "page_numbers", "boilerplate", "tables_of_contents", "author_lists", "affiliations",
    "references", "hyphenation",
]  # fmt: skip
"""unicode_repair: mojibake, ligatures and control characters that an extractor left (ftfy);
running_headers: lines that repeat at page ends, with a page number or without; page_numbers: lines of nothing else;
boilerplate: cookie banners, navigation, share buttons, copyright and download notices;
tables_of_contents: headings with page numbers, or that come again below; author_lists: names below the title;
affiliations: addresses, e-mails, ORCIDs, dates of receipt and acceptance; references: lists of cited works, with their heading;
hyphenation: words broken at line ends are joined."""

LAYOUT_KINDS: tuple[LayoutKind, ...] = get_args(LayoutKind)
"""In the order in which they are stripped: each finds its lines more easily without those before it."""

PRESETS: dict[str, frozenset[LayoutKind]] = {
    "none": frozenset(),
    "paper": frozenset(LAYOUT_KINDS),
    "web": frozenset({"unicode_repair", "boilerplate", "tables_of_contents"}),
}


class Layout(Node):
    """What to strip from the documents of a source.

    Example:
        layout: {document: paper, keep: [references]}
    """

    document: Literal["none", "paper", "web"] = Field(
        default="none",
        description="What the text was extracted from. paper: the PDF of a paper, report or thesis, all kinds are stripped; "
        "web: HTML, unicode_repair, boilerplate and tables_of_contents; none: nothing.",
    )
    strip: list[LayoutKind] = Field(default=[], description="Kinds to strip besides those of `document`.")
    keep: list[LayoutKind] = Field(default=[], description="Kinds that stay though `document` strips them.")

    @property
    def kinds(self) -> tuple[LayoutKind, ...]:
        """What is stripped, in the order of LAYOUT_KINDS."""
        wanted = (PRESETS[self.document] | set(self.strip)) - set(self.keep)
        return tuple(kind for kind in LAYOUT_KINDS if kind in wanted)

    @model_validator(mode="after")
    def _says_nothing_in_vain(self) -> Self:
        preset = PRESETS[self.document]
        for kind in self.strip:
            if kind in preset or self.strip.count(kind) > 1:
                raise ValueError(f"strip: `document: {self.document}` and `strip` name {kind} twice; once is enough")
        for kind in self.keep:
            if kind not in preset or self.keep.count(kind) > 1:
                raise ValueError(f"keep: {kind} is not stripped by `document: {self.document}`, or is named twice")
        return self
