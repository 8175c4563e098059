"""The labelled documents: those the rules were tuned on, and those held out.

templates x seeds, around real abstracts of artifacts/assets (never committed) --> Labelled
tests/corpus/layouts/{tuned,heldout}/*.labelled, written by hand --> Labelled

Of the held-out templates only totals were looked at. Of the held-out files by hand the counts of each were seen once, and four
of them (21, 23, 24, 26) led to changes: read their figures as tuned ones.
"""

import random
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal

from jobs.corpus.pubmed import read_pubmed_file
from tests.world.papers import heldout, second, tuned
from tests.world.papers.labelled import Labelled, read_labelled

ROOT = Path(__file__).parents[3]
ABSTRACTS = ROOT / "artifacts/assets/pubmed/pubmed21n1298.xml.gz"
OLD_ABSTRACTS = ROOT / "artifacts/assets/pubmed-1970s/pubmed20n0014.xml.gz"
LAYOUTS = ROOT / "tests/corpus/layouts"

NOTICE = re.compile(r"©|copyright|rights reserved|published by", re.IGNORECASE)
"""Some abstracts end in their publisher's notice, which no template labels."""

Part = Literal["tuned", "heldout"]
SEEDS = {"tuned": range(1000, 1012), "heldout": range(9000, 9012)}


@cache
def abstracts(path: Path = ABSTRACTS) -> list[str]:
    """Every abstract of a PubMed file, as the corpus reads it."""
    return [row.text for row in read_pubmed_file(path)]


def generated(part: Part, web: bool = False, seeds: range | None = None) -> Iterator[Labelled]:
    """Every template of a part with every seed; the two parts draw from different abstracts."""
    modules = (tuned, second) if part == "tuned" else (heldout,)
    templates = [template for module in modules for template in (module.WEB_TEMPLATES if web else module.TEMPLATES)]
    bodies = [text for text in abstracts() if 600 < len(text) < 2500 and not NOTICE.search(text)][
        0 if part == "tuned" else 1 :: 2
    ]
    for template in templates:
        for seed in seeds or SEEDS[part]:
            rng = random.Random(seed)
            yield template(rng, lambda rng=rng: rng.choice(bodies).replace("\n", " "))


def hand_written(part: Part) -> list[Labelled]:
    return [read_labelled(path) for path in sorted((LAYOUTS / part).glob("*.labelled"))]
