"""How often a hyphen at a line's end is taken for the wrong one, on real abstracts; and the list of words that helps.

    python -m tests.benchmarks.hyphenation [--words]

With --words, jobs/corpus/layout/english_words.txt is written: the words that are in most of the abstracts that are not measured,
and of the samples of C4 and Wikipedia, one line an initial. Last line: shares of the writer's hyphens that are lost, and of broken
words that keep one.
"""

import json
import random
import re
import sys
from collections import Counter
from itertools import groupby
from pathlib import Path

from jobs.corpus.layout import hyphenation
from tests.world.papers.breaks import MEASURED, at_hyphens, hyphen_errors, measured
from tests.world.papers.fixtures import OLD_ABSTRACTS, ROOT, abstracts
from tests.world.papers.labelled import Labelled
from tests.world.papers.words import wrapped

FREQUENT = Path(hyphenation.__file__).with_name("english_words.txt")
WORDS = 8000
"""3000 lose 13 % of the writer's hyphens, 5000 10 %, 8000 9 %."""
WORD = re.compile(r"(?<![\w-])[a-z]{3,}(?![\w-])")
SEED = 7


def main() -> None:
    if "--words" in sys.argv:
        words = sorted(frequent_words())
        FREQUENT.write_text("".join(" ".join(same) + "\n" for _, same in groupby(words, key=lambda word: word[0])))
    texts, rng = measured(0, 4000), random.Random(SEED)
    papers = [" ".join(texts[start : start + 12]) for start in range(0, len(texts), 12)]
    ratios: dict[str, float] = {}
    for name, read in (("abstracts", texts), ("twelve_joined", papers)):
        own = hyphen_errors(map(at_hyphens, read))
        inside = hyphen_errors([Labelled(name, wrapped(text, 72, rng, 0.6)) for text in read])
        print(f"{name}, at hyphens:   {own}\n{name}, inside words: {inside}")
        ratios |= {f"{name}_own_lost": own.lost / own.own, f"{name}_left_inside_words": inside.left / inside.inside}
    print(json.dumps({name: round(ratio, 4) for name, ratio in ratios.items()}))


def frequent_words() -> list[str]:
    """By the sum of the shares of medical and of other texts that have them."""
    general = [
        " ".join(value for value in json.loads(line).values() if isinstance(value, str))
        for name in ("c4", "wiki")
        for line in (ROOT / f"artifacts/assets/general/{name}.jsonl").read_text().splitlines()
    ]
    shares: Counter[str] = Counter()
    for texts in ([*abstracts()[MEASURED:], *abstracts(OLD_ABSTRACTS)], general):
        texts_with = Counter(word for text in texts for word in set(WORD.findall(text.lower())))
        for word, count in texts_with.items():
            shares[word] += count / len(texts)  # pyright: ignore[reportArgumentType] - a Counter of shares
    return [word for word, _ in sorted(shares.items(), key=lambda item: (-item[1], item[0]))[:WORDS]]


if __name__ == "__main__":
    main()
