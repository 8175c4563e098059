"""What is stripped from papers and pages, how surely, and what is left alone."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema.layout import LAYOUT_KINDS, Layout
from jobs.corpus.layout import Removed, strip_layout
from jobs.quickstart_assets import prepare_assets
from tests.world.papers.fixtures import (
    ABSTRACTS,
    LAYOUTS,
    OLD_ABSTRACTS,
    ROOT,
    Part,
    abstracts,
    generated,
    hand_written,
)
from tests.world.papers.labelled import Labelled, score

PAPER, WEB = Layout(document="paper"), Layout(document="web")
WEB_PAGES = ("07_news_page", "08_wiki_article", "09_page_with_html_lists", "25_repository_page")


@pytest.fixture(scope="module", autouse=True)
def assets() -> None:
    if not (ROOT / "artifacts/assets/assets.json").exists():
        prepare_assets(ROOT / "artifacts/assets", print)


def test_presets_and_what_is_named_in_vain():
    assert Layout().kinds == ()
    assert Layout(document="paper").kinds == LAYOUT_KINDS
    assert Layout(document="none", strip=["hyphenation"]).kinds == ("hyphenation",)
    assert "references" not in Layout(document="paper", keep=["references"]).kinds
    for wrong in ({"document": "paper", "strip": ["references"]}, {"document": "web", "keep": ["references"]}):
        with pytest.raises(ValueError, match="references"):
            Layout.model_validate(wrong)


NOTE = """Salt in garden walls
Orla Fenhoven and Kasper Dovander
University of Corvale, Freedonia
Abstract
Walls crumble where co-workers of the sea, wind and salt water, rise and where each coworker of
theirs is left alone. In the pre- and postwar years, nobody measured how fast the walls crum-
bled, or whether a co-
worker of ours was right in saying that micro-
scopic cracks came first.
References
1. Dovander K. Salt. J Wall Stud. 1992;4(1):12-19.
2. Fenhoven O, Lamova K. Damp. Ann Mason. 1999;11:201-15.
3. Holbeck G. Tides. Arch Stone. 2001;2(4):1-44.
Appendix
Raw counts are with the authors."""


def test_what_goes_is_told_by_line_and_what_stays_keeps_its_lines():
    stripped = strip_layout(NOTE, PAPER)
    assert stripped.text.startswith("Salt in garden walls\nAbstract\nWalls crumble")
    assert stripped.text.endswith("came first.\nAppendix\nRaw counts are with the authors.")
    assert "crumbled,\nor whether" in stripped.text and "microscopic\ncracks" in stripped.text
    assert "pre- and postwar" in stripped.text
    assert Removed("author_lists", 2, 1, 33) in stripped.removed
    assert Removed("affiliations", 3, 1, 32) in stripped.removed
    references = [item for item in stripped.removed if item.kind == "references"]
    assert [(item.first_line, item.lines) for item in references] == [(10, 4)]
    assert strip_layout(NOTE, Layout()).text == NOTE


def test_kinds_are_stripped_one_by_one():
    kept = strip_layout(NOTE, Layout(document="paper", keep=["references", "author_lists"])).text
    assert "J Wall Stud" in kept and "Orla Fenhoven and" in kept and "University of Corvale" not in kept
    only = strip_layout(NOTE, Layout(strip=["references"]))
    assert {item.kind for item in only.removed} == {"references"} and "crum-\nbled" in only.text


def test_what_pdfium_writes_for_a_broken_word_is_mended():
    text = "It is in man\ufffeagement, and the man\ufffeagement of well-\nknown trees ﬁnds it."
    assert strip_layout(text, PAPER).text == "It is in management, and the management of well-\nknown trees finds it."
    assert strip_layout("GrÃ¶ÃŸe “quoted” ｆｕｌｌ", PAPER).text == "Größe “quoted” ｆｕｌｌ"  # noqa: RUF001


@pytest.mark.parametrize("layout", [PAPER, WEB], ids=["paper", "web"])
@pytest.mark.parametrize("path", sorted((LAYOUTS / "unchanged").glob("*.txt")), ids=lambda path: path.stem)
def test_what_is_no_paper_comes_back_unchanged(path: Path, layout: Layout):
    text = path.read_bytes().decode()
    stripped = strip_layout(text, layout)
    assert stripped.text == text and stripped.removed == []


FLOORS: dict[Part, dict[str, tuple[float, float]]] = {
    "tuned": {
        "author_lists": (0.99, 0.99), "affiliations": (0.99, 0.99), "tables_of_contents": (0.99, 0.99), "running_headers": (0.99, 0.99),
        "page_numbers": (0.99, 0.98), "references": (0.99, 0.99), "boilerplate": (0.99, 0.99), "hyphenation": (0.97, 0.97),
    },
    "heldout": {
        "author_lists": (0.99, 0.99), "affiliations": (0.95, 0.85), "tables_of_contents": (0.99, 0.99), "running_headers": (0.99, 0.79),
        "page_numbers": (0.99, 0.80), "references": (0.97, 0.99), "boilerplate": (0.99, 0.99), "hyphenation": (0.97, 0.96),
    },
}  # fmt: skip
"""Least (precision, recall), a little below what was found when the held-out templates were looked at for the first time."""


def documents(part: Part, web: bool) -> list[Labelled]:
    written = [document for document in hand_written(part) if (document.name in WEB_PAGES) == web]
    return [*generated(part, web), *written]


@pytest.mark.parametrize("part", ["tuned", "heldout"])
def test_precision_and_recall_by_kind(part: Part):
    for web, layout in ((False, PAPER), (True, WEB)):
        for kind, counts in score(documents(part, web), layout).items():
            if counts.hits + counts.misses + counts.false_alarms == 0:
                continue
            precision, recall = FLOORS[part][kind]
            assert counts.precision >= precision and counts.recall >= recall, (kind, counts)


@pytest.mark.parametrize("part", ["tuned", "heldout"])
def test_stripping_twice_is_stripping_once(part: Part):
    for web, layout in ((False, PAPER), (True, WEB)):
        for document in documents(part, web):
            once = strip_layout(document.text, layout).text
            assert strip_layout(once, layout).text == once, document.name


PIECES = st.sampled_from(
    [*NOTE.split("\n"), "\f", "", "3", "4", "5", "Page 3 of 9", "Contents", "1 Salt ..... 3", "2 Sea ..... 4", "GrÃ¶ÃŸe",
     "Journal of Walls 12", "We use cookies.", "Home", "News", "Search", "a micro-", "scope", "self-", "x\ufffey", "\u00ad", "© 2019 Wall Ltd"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=80), st.sampled_from(["\n", "\r\n", "\n\f"]), st.sampled_from([PAPER, WEB]))
def test_stripping_twice_is_stripping_once_of_any_lines(pieces: list[str], end: str, layout: Layout):
    once = strip_layout(end.join(pieces), layout)
    again = strip_layout(once.text, layout)
    assert again.text == once.text and again.removed == []


@given(st.text(max_size=200))
def test_any_text_passes_and_stays_as_it_is_or_says_what_went(text: str):
    stripped = strip_layout(text, PAPER)
    assert (stripped.text == text) == (not stripped.removed)


def test_abstracts_have_next_to_no_layout():
    changed = {"unicode_repair": 0, "other": 0}
    # Every sixth: 30,457 take half a minute, and 34 of them change, one by more than its letters.
    read = [*abstracts(ABSTRACTS), *abstracts(OLD_ABSTRACTS)][::6]
    for text in read:
        removed = strip_layout(text, PAPER).removed
        changed["unicode_repair"] += any(item.kind == "unicode_repair" for item in removed)
        changed["other"] += any(item.kind != "unicode_repair" for item in removed)
    assert len(read) > 5_000
    # Ligatures and byte order marks that publishers sent; one abstract of all is nothing but its publisher's notice.
    assert changed["unicode_repair"] <= 12 and changed["other"] <= 1
