"""Which hyphens at line ends are the writer's, and which broke a word."""

import random

import pytest

from configs.schema.layout import Layout
from jobs.corpus.layout import strip_layout
from jobs.quickstart_assets import prepare_assets
from tests.world.papers.breaks import at_hyphens, hyphen_errors, measured
from tests.world.papers.fixtures import ROOT
from tests.world.papers.labelled import Labelled
from tests.world.papers.words import wrapped

OWN = (
    "skin-contact", "aging-with", "long-lasting", "decision-making", "anti-cancer", "post-treatment", "meta-analysis", "off-target",
    "two-way", "out-of-pocket", "state-of-the-art", "wet-to-dry", "mRNA-sequencing", "FDA-approved", "GC-MS", "X-LINKED", "Forty-one", "co-infection",
)  # fmt: skip
BROKEN = (
    "man-agement", "there-fore", "under-standing", "demon-strated", "car-bon", "con-sidered", "pre-sented", "RE-SULTS", "CONCLU-SIONS",
    "METH-ODS", "inter-ested", "re-ported", "for-give", "infor-mation", "over-all", "high-lighted", "com-pared",
)  # fmt: skip


def mended(word: str) -> str:
    """What becomes of the word where its last hyphen ends a line of a document with no other word of use."""
    head, _, tail = word.rpartition("-")
    text = f"Qyx zvrk qyx zvrk qyx zvrk {head}-\n{tail} qyx zvrk qyx zvrk qyx wro-\nzvrk qyx zvrk qyx zvrk."
    return strip_layout(text, Layout(strip=["hyphenation"])).text.split("\n")[0].split()[-1]


@pytest.mark.parametrize("word", OWN)
def test_the_writers_hyphen_stays(word: str):
    assert mended(word) == word


@pytest.mark.parametrize("word", BROKEN)
def test_a_words_hyphen_goes(word: str):
    assert mended(word) == word.replace("-", "")


def test_what_the_document_says_comes_first():
    text = "The tumor-like coworker of a dog.\nOf an overly long line of words is a co-\nworker, and a man of the town is over-\nall a man of an over-all."
    assert "coworker," in (once := strip_layout(text, Layout(strip=["hyphenation"])).text) and "is over-all" in once


def test_real_abstracts_keep_nine_hyphens_in_ten():
    """Measured over 4000 (tests/benchmarks/hyphenation.py): 9 % lost and 0.5 % left; it was 26 % and 2.1 %."""
    if not (ROOT / "artifacts/assets/assets.json").exists():
        prepare_assets(ROOT / "artifacts/assets", print)
    texts, rng = measured(4000, 5000), random.Random(3)
    own = hyphen_errors(map(at_hyphens, texts))
    inside = hyphen_errors(Labelled("inside", wrapped(text, 72, rng, 0.6)) for text in texts)
    print(own, inside, sep="\n")
    assert own.own > 150 and own.lost <= 0.13 * own.own
    assert inside.inside > 2000 and inside.left <= 0.008 * inside.inside and inside.lost <= 0.14 * inside.own
