"""Documents with near-copies whose number is known, and how many of them somebody found.

words of real abstracts, as often as there --drawn--> texts of 2 kB --some copied, a few words changed--> texts-N.jsonl
                                                                                                        `-> truth.parquet
"""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.corpus.pubmed import read_pubmed_file
from tests.benchmarks.training_data import ABSTRACTS

FILES = 8
CHARACTERS = 2000
CHUNK = 5000
"""Documents that are drawn together; copies have their originals among them, in whichever file."""
COPIES, DECOYS = 0.05, 0.05
CHANGED_WORDS = 5
"""Of a copy, at most: of some 300 5-grams each takes five away and brings five, so that copies are 84 to 97 % alike."""
DECOY_CHANGED = 0.4
"""Of a decoy's words, one stretch: it is 43 % alike and no copy."""


@dataclass(frozen=True)
class Found:
    kept: int
    recall: float
    """Of the copies beyond the first of each group: how many are gone."""
    precision: float
    """Of what is gone: how much was such a copy."""


def write_documents(directory: Path, documents: int) -> Path:
    """The same arguments give the same bytes. Returns `directory`: texts-0.jsonl ... and truth.parquet."""
    directory.mkdir(parents=True)
    hashes: list[str] = []
    groups: list[int] = []
    with ExitStack() as stack:
        files = [stack.enter_context((directory / f"texts-{number}.jsonl").open("w")) for number in range(FILES)]
        for number, (text, group) in enumerate(_documents(documents)):
            files[number % FILES].write(json.dumps({"id": str(number), "text": text}) + "\n")
            hashes.append(_key(text))
            groups.append(group)
    pq.write_table(pa.table({"key": hashes, "group": groups}), directory / "truth.parquet")
    return directory


def judge(directory: Path, kept: Iterable[str]) -> Found:
    """What is left of write_documents' texts, against what should be."""
    truth = pq.read_table(directory / "truth.parquet")
    group_of = dict(zip(truth["key"].to_pylist(), truth["group"].to_pylist(), strict=True))
    left = Counter(group_of[_key(text)] for text in kept)
    gone = len(group_of) - left.total()
    sizes = Counter(group_of.values())
    wanted = sum(size - 1 for size in sizes.values())
    right = sum(min(size - left[group], size - 1) for group, size in sizes.items())
    return Found(left.total(), right / wanted, right / gone if gone else 1.0)


def _documents(count: int) -> Iterator[tuple[str, int]]:
    """(text, group): copies have the group of their original, everything else has its own."""
    words, weights = _vocabulary()
    length = round(CHARACTERS / (sum(len(word) * share for word, share in zip(words, weights, strict=True)) + 1))
    for begin in range(0, count, CHUNK):
        size = min(CHUNK, count - begin)
        generator = np.random.default_rng([begin, 7])
        drawn = generator.choice(len(words), (size, length), p=weights)
        group = np.arange(begin, begin + size)
        copies, decoys = round(size * COPIES), round(size * DECOYS)
        for place in range(copies + decoys):
            original = generator.integers(copies + decoys, size)
            drawn[place] = drawn[original]
            if place < copies:
                group[place] = group[original]
                changed = generator.choice(length, generator.integers(1, CHANGED_WORDS + 1), replace=False)
            else:
                changed = np.arange(round(length * DECOY_CHANGED)) + generator.integers(length // 2)
            drawn[place, changed] = generator.choice(len(words), len(changed), p=weights)
        for place in generator.permutation(size).tolist():
            yield " ".join([words[word] for word in drawn[place].tolist()]), int(group[place])


def _vocabulary() -> tuple[list[str], np.ndarray]:
    rows = itertools.islice(read_pubmed_file(ABSTRACTS), 6000)
    counts = Counter(word for row in rows for word in row.text.split())
    total = counts.total()
    return list(counts), np.array([count / total for count in counts.values()])


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
