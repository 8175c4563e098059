"""A corpus of real documents with plants among them, and for every row what it is.

    real documents --seed--> clean | copied | hosts of a value, a quotation, a licence | evaluation texts, in no row
        rows, copies, bad rows --shuffled--> planted/ rows-N.jsonl, .gz, .zst and pages/*.html --> uri -> Row
        the same documents with nothing planted --> control/: what they do by themselves

Similarity and overlap are computed here, from sets of words: nothing is asked of the code that is measured.
"""

import gzip
import json
import random
import re
import unicodedata
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import zstandard

from jobs.corpus.pubmed import read_pubmed_file
from tests.benchmarks.planted_bad import BAD
from tests.benchmarks.planted_pages import page
from tests.benchmarks.planted_values import VALUES, say

PLANTED = 0.2
"""Of all rows."""
SHARES = {
    "exact": 0.2, "near": 0.22, "unlike": 0.05, "personal": 0.18, "contaminated": 0.1, "quoted": 0.03, "bad": 0.1, "licence": 0.12,
}  # fmt: skip
"""Of the plants, by what they are for. `unlike` and `quoted` are there to stay: copies that have become other texts, and texts
that hold a little of an evaluation text."""
EVALUATION_TEXTS = 0.007
"""Of the documents."""
PAGES = 0.08
"""Of the abstracts are set as web pages; all documents from the web are."""
FEWEST_WORDS = 60
"""Of a text that is copied or quoted: with fewer, one word changes the similarity by more than a bucket."""
COPIED, QUOTED = 5, 13
"""Words of the n-grams by which near-copies and quotations are to be found (README, "What a corpus goes through")."""
NEAR, UNLIKE, HELD, TOUCHED = (0.75, 0.97), (0.4, 0.6), (0.32, 1.0), (0.05, 0.25)
"""Similarities and overlaps that plants are made for. The defaults that decide are 0.75 and 0.3."""
ROWS_A_FILE = 3000

ALLOWED = (None, "CC-BY-4.0", "cc0-1.0", "MIT OR GPL-3.0-only", "LicenseRef-NLM", "odc-by-1.0", "CC-BY-4.0 AND MIT")
FORBIDDEN = (
    "CC-BY-NC-4.0", "cc-by-sa-4.0", "CC-BY-ND-4.0", "GPL-3.0-only", "MIT AND CC-BY-NC-4.0", "LicenseRef-Elsevier",
    "AGPL-3.0-or-later OR CC-BY-NC-SA-4.0",
)  # fmt: skip
"""Under `gate: {train: [permissive, LicenseRef-NLM]}`."""


@dataclass(frozen=True)
class Document:
    """A real text. `number` is its place among all that were read."""

    number: int
    text: str
    is_page: bool


@dataclass(frozen=True)
class Plant:
    """What was done to a row. Example: Plant("near", "words", similarity=0.82)"""

    step: str
    variant: str
    value: str = ""
    """Of `personal`: what must be gone."""
    reasons: tuple[str, ...] = ()
    """Of `bad`: for which it may be set aside."""
    similarity: float = 0.0
    """Of copies: Jaccard similarity to the original. Of quotations: the share of an evaluation text's 13-grams."""


@dataclass(frozen=True)
class Row:
    """A line of a file, or a page."""

    content: bytes
    is_page: bool = False
    document: int | None = None
    """The number of the document that it is or is made of; of a copy that of the original."""
    plant: Plant | None = None


@dataclass(frozen=True)
class Ledger:
    """What was written, by the uri under which a corpus names it."""

    planted: dict[str, Row]
    control: dict[str, Row]


def real_documents(assets: Path, count: int, draw: random.Random) -> list[Document]:
    """`count` of the PubMed abstracts, web pages and articles in `assets`, at random; all where there are fewer."""
    paths = [path for name in ("pubmed", "pubmed-1970s") for path in sorted((assets / name).glob("*.xml.gz"))]
    # Of a few, from the beginnings of the files: all of them take half a minute to parse.
    rows = [row for path in paths for row in islice(read_pubmed_file(path), 2 * count)]
    texts = [(row.text, draw.random() < PAGES) for row in rows]
    for name in ("c4", "wiki"):
        lines = (assets / "general" / f"{name}.jsonl").read_bytes().splitlines()
        texts += [(json.loads(line)["text"], True) for line in lines]
    draw.shuffle(texts)
    return [Document(number, text, is_page) for number, (text, is_page) in enumerate(texts[:count])]


def plant(documents: Sequence[Document], directory: Path, draw: random.Random) -> Ledger:
    """Writes `questions/`, `control/` and `planted/` below `directory`."""
    planter = Planter(documents, draw)
    questions = [planter.next_text() for _ in range(round(EVALUATION_TEXTS * len(documents)))]
    makers: dict[str, Callable[[], Row]] = {
        "exact": planter.exact_copy, "near": lambda: planter.near_copy("near", NEAR),
        "unlike": lambda: planter.near_copy("unlike", UNLIKE), "personal": planter.personal,
        "contaminated": lambda: planter.quoting("contaminated", questions, HELD),
        "quoted": lambda: planter.quoting("quoted", questions, TOUCHED), "bad": planter.bad, "licence": planter.forbidden,
    }  # fmt: skip
    plants = len(documents) * PLANTED / (1 - PLANTED)
    rows = [makers[step]() for step, share in SHARES.items() for _ in range(round(share * plants))]
    asked = {document.number for document in questions}
    control = [planter.clean(document) for document in documents if document.number not in asked]
    rows += [row for row in control if row.document not in planter.hosts]
    draw.shuffle(rows)
    write_rows(directory / "questions", [planter.clean(document) for document in questions])
    return Ledger(write_rows(directory / "planted", rows), write_rows(directory / "control", control))


def write_rows(directory: Path, rows: Sequence[Row]) -> dict[str, Row]:
    """Lines as rows-N.jsonl, two of three packed, pages as pages/N.html; where each is."""
    (directory / "pages").mkdir(parents=True)
    (directory / "rows").mkdir()
    places: dict[str, Row] = {}
    for number, row in enumerate(row for row in rows if row.is_page):
        path = directory / "pages" / f"{number:05d}.html"
        path.write_bytes(row.content)
        places[path.as_posix()] = row
    lines = [row for row in rows if not row.is_page]
    packers: dict[str, Callable[[bytes], bytes]] = {
        "": bytes, ".gz": lambda content: gzip.compress(content, 1), ".zst": zstandard.ZstdCompressor().compress,
    }  # fmt: skip
    for number, start in enumerate(range(0, len(lines), ROWS_A_FILE)):
        suffix = list(packers)[number % len(packers)]
        path = directory / "rows" / f"rows-{number:02d}.jsonl{suffix}"
        block = lines[start : start + ROWS_A_FILE]
        path.write_bytes(packers[suffix](b"".join(row.content + b"\n" for row in block)))
        places |= {f"{path.as_posix()}#{line}": row for line, row in enumerate(block, start=1)}
    return places


class Planter:
    """Makes plants out of documents, each of which is used once."""

    def __init__(self, documents: Sequence[Document], draw: random.Random) -> None:
        self.draw = draw
        usable = [document for document in documents if len(words_of(document.text)) >= FEWEST_WORDS]
        self.texts = deque(document for document in usable if not document.is_page)
        self.pages = iter([document for document in usable if document.is_page])
        self.web_words = " ".join(document.text for document in documents[:2000] if document.is_page).split()
        self.hosts: set[int] = set()
        """Documents that are no longer themselves."""

    def next_text(self, fits: Callable[[str], bool] = bool) -> Document:
        """The next text that fits; what did not fit comes after all others."""
        for _ in range(len(self.texts)):
            if fits(self.texts[0].text):
                return self.texts.popleft()
            self.texts.rotate(-1)
        raise ValueError("no text is left that can be used: plant among more documents")

    def clean(self, document: Document) -> Row:
        if document.is_page:
            return Row(page(document.text, self.draw), is_page=True, document=document.number)
        return Row(line_of(document.text, self.draw.choice(ALLOWED)), document=document.number)

    def exact_copy(self) -> Row:
        """The same words with other spaces, line ends or code points, or on a page of another make."""
        if self.draw.random() < PAGES and (original := next(self.pages, None)) is not None:
            content = page(original.text, self.draw)
            return Row(content, is_page=True, document=original.number, plant=Plant("exact", "page of another make"))
        variant = self.draw.choice(list(SAME))
        if not any(SAME[variant](each.text) != each.text for each in self.texts):
            variant = "the same bytes"  # few texts have a letter that can be decomposed
        original = self.next_text(lambda text: SAME[variant] is str or SAME[variant](text) != text)
        content = line_of(SAME[variant](original.text), self.draw.choice(ALLOWED))
        return Row(content, document=original.number, plant=Plant("exact", variant))

    def near_copy(self, step: str, similar: tuple[float, float]) -> Row:
        original = self.next_text()
        variant = self.draw.choice(("words", "cut off", "begun later", "headed"))
        wanted = self.draw.uniform(*similar)
        text = self.changed(original.text, variant, wanted)
        similarity = jaccard(ngrams(original.text, COPIED), ngrams(text, COPIED))
        made = Plant(step, variant, similarity=similarity)
        return Row(line_of(text, self.draw.choice(ALLOWED)), document=original.number, plant=made)

    def changed(self, text: str, variant: str, similarity: float) -> str:
        """A copy with so much of one kind of change that it is as similar as wanted, or a word less."""
        pieces, grams = re.findall(r"\S+\s*", text), ngrams(text, COPIED)
        headed = self.draw.randrange(len(self.web_words) - 2 * len(pieces))
        for count in range(1, 2 * len(pieces)):
            match variant:
                case "words":
                    place = self.draw.randrange(len(pieces))
                    pieces[place] = f"{self.draw.choice(self.web_words)} "
                case "cut off":
                    pieces.pop()
                case "begun later":
                    pieces.pop(0)
                case _:
                    pieces.insert(count - 1, f"{self.web_words[headed + count]} ")
            if jaccard(grams, ngrams("".join(pieces), COPIED)) <= similarity:
                break
        return "".join(pieces)

    def personal(self) -> Row:
        """A document that says a personal value between two of its sentences, or at its end."""
        host = self.host()
        said = say(self.draw.choice(list(VALUES)), self.draw)
        text = self.between_sentences(host.text, said.sentence)
        return Row(
            line_of(text, self.draw.choice(ALLOWED)), document=host.number,
            plant=Plant("personal", said.kind, value=said.value),
        )  # fmt: skip

    def quoting(self, step: str, questions: Sequence[Document], shares: tuple[float, float]) -> Row:
        """A document that holds a part of an evaluation text, as it is or a little changed."""
        host, question = self.host(), self.draw.choice(questions)
        pieces = question.text.split()
        length = min(len(pieces), round(self.draw.uniform(*shares) * (len(pieces) - QUOTED + 1)) + QUOTED - 1)
        start = self.draw.randrange(len(pieces) - length + 1)
        variant = self.draw.choice(list(QUOTATIONS))
        quotation = QUOTATIONS[variant](pieces[start : start + length])
        text = self.between_sentences(host.text, quotation)
        held = ngrams(question.text, QUOTED)
        share = len(held & ngrams(text, QUOTED)) / len(held)
        return Row(
            line_of(text, self.draw.choice(ALLOWED)), document=host.number, plant=Plant(step, variant, similarity=share)
        )

    def forbidden(self) -> Row:
        host, licence = self.host(), self.draw.choice(FORBIDDEN)
        return Row(line_of(host.text, licence), document=host.number, plant=Plant("licence", licence))

    def bad(self) -> Row:
        """A row or a page that cannot be read, of real words."""
        variant = self.draw.choice(list(BAD))
        make, reasons, is_page = BAD[variant]
        text = " ".join(self.draw.sample(self.web_words, 80))
        return Row(make(text), is_page=is_page, plant=Plant("bad", variant, reasons=reasons))

    def host(self) -> Document:
        document = self.next_text()
        self.hosts.add(document.number)
        return document

    def between_sentences(self, text: str, sentence: str) -> str:
        ends = [match.end() for match in re.finditer(r"\. ", text)]
        place = self.draw.choice(ends) if ends and self.draw.random() < 0.8 else len(text)
        return f"{text[:place]}\n{sentence}\n{text[place:]}"


def line_of(text: str, licence: str | None) -> bytes:
    """A row of JSON lines; without a licence of its own it has the source's."""
    return json.dumps(
        {"text": text} if licence is None else {"text": text, "licence": licence}, ensure_ascii=False
    ).encode()


def words_of(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def ngrams(text: str, n: int) -> set[tuple[str, ...]]:
    words = words_of(text)
    return {tuple(words[place : place + n]) for place in range(len(words) - n + 1)}


def jaccard(one: set[tuple[str, ...]], other: set[tuple[str, ...]]) -> float:
    return len(one & other) / max(1, len(one | other))


SAME: dict[str, Callable[[str], str]] = {
    "the same bytes": str,
    "double spaces, tabs": lambda text: text.replace(". ", ".  ").replace(", ", ",\t"),
    "no-break spaces": lambda text: text.replace(" of ", " of\u00a0").replace(" the ", "\u2009the "),
    "CRLF, more empty lines": lambda text: f"\r\n\r\n {text}".replace("\n\n", "\r\n\r\n\r\n") + " \r\n",
    "decomposed code points": lambda text: unicodedata.normalize("NFD", text),
}
QUOTATIONS: dict[str, Callable[[list[str]], str]] = {
    "as it was": " ".join,
    "capitals": lambda words: " ".join(words).upper(),
    "other punctuation": lambda words: " \u2013 ".join(word.strip(".,;:()") or word for word in words),
    "a word changed": lambda words: " ".join(
        [*words[: len(words) // 2], "notwithstanding", *words[len(words) // 2 + 1 :]]
    ),
}
