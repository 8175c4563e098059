"""Broken files of every format, made from whole ones by a seed: case(seed) -> name, bytes, format."""

import gzip
import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from configs.schema.corpus import DocumentFormat, RowFormat
from tests.corpus.made_files import HTML, JATS, docx, pdf
from tests.corpus.sources import PUBMED

HEAVY_EVERY = 100
"""Every so many files one is large: 100 MB lines, 100,000 levels, bombs. They take seconds, others milliseconds."""

TEXTS = ["Iron in cells.", 'a "quoted" word,\nand\tmore \\ é 日本 \U0001f9ec', "", " ", "x" * 3000, "null", "0"]
MESSAGES = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
ROWS: list[dict[str, object]] = [
    *({"text": text} for text in TEXTS),
    {"messages": MESSAGES},
    {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
    {"prompt": "Q", "completion": "A", "label": True},
    {"prompt": "Q", "chosen": "A", "rejected": "B", "margin": 1.5},
    {"instruction": "Q", "input": "S", "output": "A", "history": [["Q", "A"]]},
    {"prompt": "Q", "answers": [{"answer": "B", "rank": 4}, {"answer": "A", "rank": 1}]},
    {"context": MESSAGES[:1], "response1": "B", "response2": "A", "overall_preference": 2},
    {"conversation_a": MESSAGES, "conversation_b": MESSAGES, "winner": "model_b"},
]


@dataclass(frozen=True)
class Case:
    """A file to read. Example: Case(4711, "a.jsonl.gz", b"...", "auto", "truncate")"""

    seed: int
    name: str
    content: bytes
    format: str
    how: str


def _lines(rng: random.Random) -> bytes:
    end = rng.choice(["\n", "\n", "\r\n", "\r", "\n\n"])
    rows = rng.choices(ROWS, k=rng.randint(1, 30)) if rng.random() < 0.5 else [rng.choice(ROWS)] * rng.randint(1, 30)
    return end.join(json.dumps(row, ensure_ascii=rng.random() < 0.5) for row in rows).encode()


def _array(rng: random.Random) -> bytes:
    rows = [rng.choice(ROWS)] * rng.randint(0, 20)
    return json.dumps(rows, indent=rng.choice([None, 1]), ensure_ascii=rng.random() < 0.5).encode()


def _csv(rng: random.Random) -> bytes:
    separator, end = rng.choice([",", "\t"]), rng.choice(["\n", "\r\n", "\r"])
    cells = ['"a ""quoted"" cell"', "plain", '"two\nlines"', "", "é"]
    rows = [[rng.choice(cells) for _ in range(3)] for _ in range(rng.randint(0, 20))]
    return end.join(separator.join(row) for row in [["prompt", "chosen", "rejected"], *rows]).encode()


def _parquet(rng: random.Random) -> bytes:
    target = io.BytesIO()
    row = rng.choice([row for row in ROWS if "history" not in row])
    table = pa.Table.from_pylist([row] * rng.randint(0, 50))
    compression = rng.choice(["none", "snappy", "gzip", "zstd"])
    pq.write_table(table, target, compression=compression, row_group_size=10, use_dictionary=rng.random() < 0.5)
    return target.getvalue()


MAKERS: dict[str, Callable[[random.Random], bytes]] = {
    ".jsonl": _lines,
    ".ndjson": _lines,
    ".json": _array,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
    ".txt": lambda rng: rng.choice(TEXTS).encode(),
    ".md": lambda rng: ("# Iron\n\n" + rng.choice(TEXTS)).encode(),
    ".html": lambda rng: HTML.encode(),
    ".xml": lambda rng: rng.choice([PUBMED, JATS]).encode(),
    ".nxml": lambda rng: JATS.encode(),
    ".docx": lambda rng: docx(),
    ".pdf": lambda rng: pdf(*(["Iron in cells\nand more"] * rng.randint(1, 3)), encrypted=rng.random() < 0.1),
}


def _truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randint(0, len(content))]


def _flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 3, 20])):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _insert(content: bytes, rng: random.Random) -> bytes:
    at = rng.randint(0, len(content))
    pieces = [
        b"\0",
        b"\0" * 50,
        b"\xff\xfe",
        b"\xed\xa0\x80",
        b'"',
        b"<",
        b"[{",
        b"\\",
        b"]]>",
        b"\x1a",
        b"&nope;",
        rng.randbytes(9),
    ]
    return content[:at] + rng.choice(pieces) + content[at:]


def _repeat(content: bytes, rng: random.Random) -> bytes:
    start = rng.randint(0, len(content))
    piece = content[start : start + rng.randint(1, 200)]
    return content[:start] + piece * rng.choice([2, 10, 500]) + content[start:]


def _remove(content: bytes, rng: random.Random) -> bytes:
    start = rng.randint(0, len(content))
    return content[:start] + content[start + rng.randint(1, 100) :]


def _swap(content: bytes, rng: random.Random) -> bytes:
    """Another number where one is: lengths, offsets, counts, weights."""
    digits = [place for place, byte in enumerate(content) if 48 <= byte <= 57]
    if not digits:
        return content
    at = rng.choice(digits)
    return content[:at] + rng.choice([b"0", b"-1", b"99999999999", b"1e999", b"4294967296", b"NaN"]) + content[at + 1 :]


def _encode(content: bytes, rng: random.Random) -> bytes:
    encoding = rng.choice(
        ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252", "cp1251", "shift_jis", "utf-7"]
    )
    return content.decode("latin-1" if rng.random() < 0.3 else "utf-8", "replace").encode(encoding, "replace")


def _line_ends(content: bytes, rng: random.Random) -> bytes:
    return b"".join(
        line + rng.choice([b"\n", b"\r\n", b"\r", b"\x0b", b"\xe2\x80\xa8"]) for line in content.split(b"\n")
    )


def _other(content: bytes, rng: random.Random) -> bytes:
    """A file of another format under this name."""
    return MAKERS[rng.choice(list(MAKERS))](rng)


def _noise(content: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice([0, 1, 7, 1000, 65_536]))


MUTATIONS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "whole": lambda content, rng: content,
    "truncate": _truncate,
    "flip": _flip,
    "insert": _insert,
    "repeat": _repeat,
    "remove": _remove,
    "swap": _swap,
    "encode": _encode,
    "line_ends": _line_ends,
    "other": _other,
    "noise": _noise,
}

BILLION = '<!DOCTYPE article [<!ENTITY a "ha">' + "".join(
    f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9)
) + "]>"  # fmt: skip
EXTERNAL = '<!DOCTYPE article [<!ENTITY % all SYSTEM "http://127.0.0.1:9/x.dtd"> %all; <!ENTITY a SYSTEM "file:///etc/passwd">]>'
ZEROS = 400 << 20


def _with_window(log: int, content: bytes) -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=log)
    return zstandard.ZstdCompressor(compression_params=parameters).compress(content)


HEAVY: dict[str, Callable[[], tuple[str, bytes]]] = {
    "deep_json": lambda: ("a.jsonl", b'{"text": "a"}\n{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b'}\n{"text": "b"}'),
    "deep_array": lambda: ("a.json", b'[{"text": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}]"),
    "only_open": lambda: ("a.json", b"[" * 5_000_000),
    "long_line": lambda: ("a.jsonl", b'{"text": "' + b"x" * 100_000_000 + b'"}\n{"text": "b"}'),
    "long_array_row": lambda: ("a.json", b'[{"text": "' + b"x\\\\" * 35_000_000 + b'"}, {"text": "b"}]'),
    "long_csv_line": lambda: ("a.csv", b"text\n" + b"x" * 100_000_000 + b"\nb\n"),
    "open_quote": lambda: ("a.csv", b'text\n"' + b"a,b\n" * 25_000_000),
    "many_cells": lambda: ("a.csv", b"text\n" + b"," * 20_000_000 + b"\nb\n"),
    "wide_header": lambda: ("a.csv", b",".join(b"c%d" % n for n in range(1_000_000)) + b"\n1\n"),
    "wide_row": lambda: ("a.jsonl", json.dumps({f"prompt{n}": n for n in range(500_000)}).encode()),
    "long_key": lambda: ("a.jsonl", b'{"' + b"k" * 50_000_000 + b'": 1}\n{"text": "b"}'),
    "many_lists": lambda: ("a.jsonl", b'{"text": [' + b"[]," * 10_000_000 + b"1]}"),
    "empty_lines": lambda: ("a.jsonl", b"\n" * 5_000_000),
    "no_line_ends": lambda: ("a.jsonl", b'{"text": "a"}\r' * 100_000),
    "billion_laughs": lambda: ("a.xml", f"{BILLION}<article><body><p>&j;</p></body></article>".encode()),
    "external_entity": lambda: ("a.xml", f"{EXTERNAL}<article><body><p>&a;</p></body></article>".encode()),
    "entities_in_docx": lambda: ("a.docx", docx("<w:p><w:r><w:t>&j;</w:t></w:r></w:p>", BILLION.replace("article", "w:document"))),
    "deep_xml": lambda: ("a.xml", b"<article><body>" + b"<sec>" * 1_000_000),
    "long_xml_text": lambda: ("a.xml", b"<article><body><p>" + b"x" * 100_000_000),
    "long_prolog": lambda: ("a.xml", b"<!--" + b"x" * 20_000_000 + b"--><article/>"),
    "long_attribute": lambda: ("a.xml", b'<article a="' + b"x" * 50_000_000 + b'"/>'),
    "many_elements": lambda: ("a.xml", b"<articles>" + b"<x/>" * 15_000_000),
    "gzip_bomb": lambda: ("a.jsonl.gz", gzip.compress(bytes(ZEROS), 9)),
    "gzip_bomb_of_rows": lambda: ("a.jsonl.gz", gzip.compress((b'{"text": "' + b"a" * 2000 + b'"}\n') * (ZEROS // 2013), 9)),
    "gzip_of_gzip": lambda: ("a.txt.gz", gzip.compress(gzip.compress(bytes(ZEROS), 9), 9)),
    "zstd_bomb": lambda: ("a.csv.zst", zstandard.ZstdCompressor(level=3).compress(bytes(4 * ZEROS))),
    "zstd_window": lambda: ("a.txt.zst", _with_window(27, bytes(ZEROS))),
    "zstd_wide_window": lambda: ("a.txt.zst", _with_window(30, bytes(ZEROS))),
    "text_bomb": lambda: ("a.txt.gz", gzip.compress(b"words " * ((300 << 20) // 6), 9)),
    "docx_bomb": lambda: ("a.docx", docx("<w:p><w:r><w:t>" + "x" * (200 << 20) + "</w:t></w:r></w:p>")),
    "docx_deep": lambda: ("a.docx", docx("<w:tbl>" * 200_000)),
    "pdf_bomb": lambda: ("a.pdf", pdf(b"BT /F1 12 Tf " + b"(a) Tj " * 30_000_000 + b"ET")),
    "pdf_zeros": lambda: ("a.pdf", pdf(bytes(ZEROS))),
    "pdf_nested": lambda: ("a.pdf", pdf(b"q " * 5_000_000 + b"[" * 1_000_000)),
    "html_deep": lambda: ("a.html", b"<div>" * 2_000_000 + b"x"),
    "html_formatting": lambda: ("a.html", b"<p><b><i><a>" * 50_000 + b"x"),
    "html_attributes": lambda: ("a.html", b"<p " + b" ".join(b"a%d=1" % n for n in range(20_000)) + b">x</p>"),
    "html_tables": lambda: ("a.html", b"<table><tr><td>" * 200_000 + b"x"),
    "html_long_text": lambda: ("a.html", b"<p>" + b"word " * 20_000_000),
}  # fmt: skip


def case(seed: int) -> Case:
    """The file of a seed. Seeds that HEAVY_EVERY divides make the large ones, one after the other."""
    rng = random.Random(seed)
    if seed % HEAVY_EVERY == 0:
        how = list(HEAVY)[seed // HEAVY_EVERY % len(HEAVY)]
        name, content = HEAVY[how]()
        return Case(seed, name, content, "auto", how)
    suffix = rng.choice(list(MAKERS))
    content, name = MAKERS[suffix](rng), f"a{suffix}"
    how = rng.choice(list(MUTATIONS))
    packed = rng.random() < 0.3
    if packed and rng.random() < 0.5:
        content = MUTATIONS[how](content, rng)
    if packed:
        kind = rng.choice([".gz", ".zst"])
        content = gzip.compress(content, mtime=0) if kind == ".gz" else zstandard.ZstdCompressor().compress(content)
        name += kind
    if not packed or rng.random() < 0.7:
        content = MUTATIONS[how](content, rng)
    name = name.upper() if rng.random() < 0.05 else name
    formats = [*get_args(DocumentFormat), *get_args(RowFormat)]
    return Case(seed, name, content, "auto" if rng.random() < 0.7 else rng.choice(formats), how)
