"""Texts of evaluation sets inside documents, found by common 13-grams of words (as GPT-3's report, arXiv 2005.14165, appendix C).

corpora that are evaluated on --13-grams--> Contamination, a sorted table of hashes
documents --13-grams--> hashes that are in it --by evaluation text--> share of that text that a document holds
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cluster.storage import Store
from jobs.corpus.ngrams import ngrams
from jobs.corpus.schema import read_table

WORDS = 13
"""GPT-3's; shorter ones are common phrases, longer ones miss a text with one word changed."""


@dataclass(frozen=True)
class Contamination:
    """The n-grams of evaluation texts.

    Example:
        Contamination(overlap=0.3, hashes=array([3, 3, 9], dtype=uint64), texts=array([0, 1, 0]), sizes=array([2, 1]),
                      names=["pubmed_qa: qa.jsonl#1", "pubmed_qa: qa.jsonl#2"])
    """

    overlap: float
    hashes: np.ndarray
    """(N,) sorted."""
    texts: np.ndarray
    """(N,) number of the evaluation text each hash is of."""
    sizes: np.ndarray
    """(texts,) how many distinct n-grams each has."""
    names: list[str]
    """Corpus and uri of each."""


def contamination_of(corpora: Mapping[str, Store], overlap: float) -> Contamination:
    """Of everything in both splits of some corpora."""
    hashes, texts, names = [], [], []
    for name, corpus in corpora.items():
        for file, entry in corpus.read_json("manifest.json")["files"].items():
            if not file.startswith(("train/", "heldout/")):
                continue
            table = read_table(corpus, file, entry["sha256"], ["text", "uri"])
            found = ngrams(table["text"], WORDS)
            hashes.append(found.hashes)
            texts.append(np.repeat(np.arange(table.num_rows) + len(names), np.diff(found.offsets)))
            names += [f"{name}: {uri}" for uri in table["uri"].to_pylist()]
    # Distinct, by text: a phrase that a text repeats is one.
    both = np.concatenate(texts).astype(np.uint64) if texts else np.empty(0, dtype=np.uint64)
    pairs = np.unique(np.stack([np.concatenate(hashes) if hashes else both, both]), axis=1)
    return Contamination(
        overlap,
        pairs[0],
        pairs[1].astype(np.int64),
        np.bincount(pairs[1].astype(np.int64), minlength=len(names)),
        names,
    )


def without_contaminated(documents: pa.Table, contamination: Contamination) -> tuple[pa.Table, pa.Table]:
    """(the clean documents, the others with a column `holds`: of which evaluation text they hold how much)."""
    holds = held_texts(documents["text"], contamination)
    clean = np.array([not text for text in holds], dtype=bool)
    found = documents.append_column("holds", pa.array(holds, pa.string()))
    return documents.filter(pa.array(clean)), found.filter(pa.array(~clean))


def held_texts(texts: pa.ChunkedArray, contamination: Contamination) -> list[str]:
    """For every document the evaluation text that it holds most of, in words; empty where it holds less than `overlap` of any."""
    found = ngrams(texts, WORDS)
    low = np.searchsorted(contamination.hashes, found.hashes, side="left")
    high = np.searchsorted(contamination.hashes, found.hashes, side="right")
    told = [""] * len(texts)
    documents = np.repeat(np.arange(len(texts)), np.diff(found.offsets))
    seen: dict[int, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for place in np.flatnonzero(high > low).tolist():
        for text in contamination.texts[low[place] : high[place]].tolist():
            seen[int(documents[place])][text].add(int(found.hashes[place]))
    for document, of_texts in seen.items():
        shares = {text: len(hashes) / contamination.sizes[text] for text, hashes in of_texts.items()}
        text = max(shares, key=lambda text: (shares[text], -text))
        if shares[text] >= contamination.overlap:
            told[document] = f"{shares[text]:.0%} of {contamination.names[text]}"
    return told
