"""Real texts, and files of every kind that hold them: what tests/benchmarks/corpus_speed.py reads.

abstracts + Wikipedia and web pages --repeated with a number--> texts --a slice of them--> one set of files for each kind
"""

import csv
import gzip
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from jobs.corpus.pubmed import read_pubmed_file
from tests.corpus.made_files import docx_of, pdf

ASSETS = Path(__file__).parents[2] / "artifacts/assets"
PUBMED = ASSETS / "pubmed" / "pubmed21n1298.xml.gz"
TEXTS_OF_ROWS = 6000
DOCUMENTS = {"text": 2000, "html": 2000, "docx": 500, "pdf": 20}
"""How many files are read of those that are a document each."""
PAPER_CHARACTERS = 60_000
"""Of a PDF: a paper of some twenty pages."""
LINES_A_PAGE = 50
MARKUP = '<div class="c{0}"><a href="/page/{0}">Home</a> <span style="color:red">{0}</span></div>\n'
PIECES_OF_MARKUP = 40
"""Navigation of an HTML page; with it about a third of the bytes is text."""


@dataclass(frozen=True)
class Files:
    """Of one kind; `unpacked` are the bytes that are parsed."""

    paths: list[Path]
    unpacked: int


def abstracts() -> list[str]:
    return [row.text for row in read_pubmed_file(PUBMED)]


def pages(texts: list[str], size: float) -> list[str]:
    """`texts`, then Wikipedia and web pages again and again until there are `size` bytes; each time they end differently."""
    general = [
        json.loads(line)["text"]
        for name in ("wiki", "c4")
        for line in (ASSETS / "general" / f"{name}.jsonl").read_text().splitlines()
    ]
    texts, left = list(texts), size - sum(len(text.encode()) for text in texts)
    for number in itertools.count():
        for text in general:
            if left <= 0:
                return texts
            texts.append(f"{text}\n\nCopy {number}.")
            left -= len(texts[-1].encode())
    raise AssertionError("unreachable")


def file_of_each_kind(texts: list[str], folder: Path) -> dict[str, Files]:
    rows = texts[:: max(1, len(texts) // TEXTS_OF_ROWS)]
    lines = "".join(json.dumps({"text": text, "id": number}) + "\n" for number, text in enumerate(rows)).encode()
    found = {"jsonl": _written(folder / "a.jsonl", lines, len(lines))}
    found["jsonl.gz"] = _written(folder / "a.jsonl.gz", gzip.compress(lines, 6), len(lines))
    found["jsonl.zst"] = _written(folder / "a.jsonl.zst", zstandard.compress(lines), len(lines))
    table = folder / "a.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["text", "id"], *([text, number] for number, text in enumerate(rows))])
    found["csv"] = Files([table], table.stat().st_size)
    columns = folder / "a.parquet"
    pq.write_table(pa.table({"text": rows}), columns, compression="zstd")
    found["parquet"] = Files([columns], columns.stat().st_size)
    found["xml"] = _xml(folder)
    for kind, count in DOCUMENTS.items():
        some = texts[:: len(texts) // count]
        if kind == "pdf":
            some = ["\n".join(texts[number::count])[:PAPER_CHARACTERS] for number in range(count)]
        paths = [folder / f"{number}.{'txt' if kind == 'text' else kind}" for number in range(len(some))]
        for path, text in zip(paths, some, strict=True):
            path.write_bytes(_document(kind, text))
        found[kind] = Files(paths, sum(path.stat().st_size for path in paths))
    return found


def _written(path: Path, content: bytes, unpacked: int) -> Files:
    path.write_bytes(content)
    return Files([path], unpacked)


def _xml(folder: Path) -> Files:
    with gzip.open(PUBMED) as file:
        content = file.read()
    return _written(folder / "a.xml", content, len(content))


def _document(kind: str, text: str) -> bytes:
    paragraphs = text.split("\n")
    match kind:
        case "text":
            return text.encode()
        case "html":
            around = "".join(MARKUP.format(number) for number in range(PIECES_OF_MARKUP))
            body = "".join(f"<p>{escape(paragraph)}</p>\n" for paragraph in paragraphs)
            return f"<html><head><title>A page</title></head><body><nav>{around}</nav><main>{body}</main></body></html>".encode()
        case "docx":
            return docx_of(*paragraphs)
        case _:
            words = text.encode("ascii", "replace").decode().translate(str.maketrans("()\\", "   ")).split()
            written = [" ".join(words[start : start + 12]) for start in range(0, len(words), 12)]
            return pdf(*("\n".join(written[at : at + LINES_A_PAGE]) for at in range(0, len(written), LINES_A_PAGE)))
