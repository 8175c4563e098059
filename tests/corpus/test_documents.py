"""Documents that are files of their own (HTML, PDF, DOCX, JATS, texts in other encodings), and files that are packed."""

import gzip
import json
import zipfile
from pathlib import Path

import pytest
import zstandard

from configs.schema.corpus import Source
from jobs.corpus import docx as docx_reader
from jobs.corpus import guarded, json_rows, tables, unpack, xml_stream
from jobs.corpus.raw import ByteRange, Raw, Rejected
from jobs.corpus.readers import read_file
from jobs.corpus.schema import DataError
from tests.corpus.made_files import HTML, JATS, docx, docx_of, pdf
from tests.corpus.sources import PUBMED


def read(path: Path, format: str = "auto") -> list[Raw | Rejected]:
    source = Source(path=str(path), format=format, licence="CC0-1.0")  # pyright: ignore[reportArgumentType]
    return list(read_file(str(path), path.name, source))


def one(path: Path, content: bytes | str, format: str = "auto") -> Raw | Rejected:
    """The only row of a file that is written first."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (row,) = read(path, format)
    return row


def text(row: Raw | Rejected) -> str:
    assert isinstance(row, Raw), row
    return row.text


def reason(row: Raw | Rejected) -> str:
    assert isinstance(row, Rejected), row
    return row.reason


def test_html_keeps_title_and_main_text(tmp_path: Path) -> None:
    page = one(tmp_path / "a.html", HTML)
    assert text(page) == (
        "Iron & cells\n\nIron\n\nCells need iron, about 5\xa0mg.\n\n  • first point\n  • second point\nx = 1\n  y = 2"
    )
    assert isinstance(page, Raw) and (page.uri, page.format, page.encoding) == ("a.html", "html", "utf-8")


def test_html_without_main_is_its_body_without_navigation(tmp_path: Path) -> None:
    page = "<title>T</title><header>Top</header><nav>Menu</nav><p>T begins the text.</p><footer>End</footer>"
    assert text(one(tmp_path / "a.htm", page)) == "T begins the text."
    assert reason(one(tmp_path / "b.html", "<title>T</title><nav>Menu</nav>")) == "no_text"


def test_html_in_the_encoding_it_declares(tmp_path: Path) -> None:
    page = one(tmp_path / "a.html", '<meta charset="iso-8859-2"><p>Łódź jest piękna</p>'.encode("iso-8859-2"))
    assert text(page) == "Łódź jest piękna" and isinstance(page, Raw) and page.encoding == "iso8859-2"


def test_html_that_could_be_slow_is_read_in_a_process_that_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = f'<p>Iron<img src="data:image/png;base64,{"A" * 10_000}"></p>'
    assert text(one(tmp_path / "picture.html", picture)) == "Iron"
    monkeypatch.setattr(guarded, "CPU_S", 1)
    attributes = " ".join(f"a{number}=1" for number in range(30_000))
    assert reason(one(tmp_path / "tag.html", f"<p {attributes}>hi</p>")) == "too_slow"
    hidden = " ".join(f'a{number}=">"' for number in range(30_000))
    assert reason(one(tmp_path / "hidden.html", f"<p {hidden}>hi</p>")) == "too_slow"


def test_pdf_pages_are_joined_by_form_feeds(tmp_path: Path) -> None:
    document = one(tmp_path / "a.pdf", pdf("Iron in cells\nsecond line", "Page two"))
    assert text(document) == "Iron in cells\nsecond line\fPage two"
    assert isinstance(document, Raw) and (document.uri, document.format) == ("a.pdf", "pdf")


def test_pdfs_that_cannot_be_read_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reason(one(tmp_path / "scan.pdf", pdf(b"0 0 100 100 re f"))) == "no_text"
    assert reason(one(tmp_path / "locked.pdf", pdf("secret", encrypted=True))) == "encrypted"
    assert reason(one(tmp_path / "cut.pdf", b"%PDF-1.4\nnothing")) == "broken_pdf"
    assert reason(one(tmp_path / "page.pdf", "<html>")) == "broken_pdf"
    monkeypatch.setattr(guarded, "MEMORY_BYTES", 1 << 30)
    bomb = pdf(b"BT /F1 12 Tf " + b"(a) Tj " * 4_000_000 + b"ET")
    assert len(bomb) < 50_000
    assert reason(one(tmp_path / "bomb.pdf", bomb)) in ("crashed", "too_slow")


def test_docx_paragraphs_and_rows_of_tables(tmp_path: Path) -> None:
    assert text(one(tmp_path / "a.docx", docx())) == "Iron in cells\n\nstrain\tiron\n\nK12\t5\n\nafter\tit"


def test_docx_that_cannot_be_read_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reason(one(tmp_path / "a.docx", b"no zip")) == "broken_docx"
    assert reason(one(tmp_path / "b.docx", docx_of(" "))) == "no_text"
    assert reason(one(tmp_path / "c.docx", b"\xd0\xcf\x11\xe0" + b"\0" * 500)) == "encrypted"
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.writestr("other.xml", "<x/>")
    assert reason(one(tmp_path / "d.docx", (tmp_path / "d.zip").read_bytes())) == "broken_docx"
    assert reason(one(tmp_path / "e.docx", docx("<w:p>"))) == "damaged_file"
    assert reason(one(tmp_path / "f.docx", docx("&x;", '<!DOCTYPE w [<!ENTITY x "y">]>'))) == "xml_entities"
    monkeypatch.setattr(docx_reader, "MAX_PART_BYTES", 1000)
    assert reason(one(tmp_path / "g.docx", docx_of("a" * 2000))) == "zip_bomb"


def test_jats_title_abstract_and_body(tmp_path: Path) -> None:
    article = one(tmp_path / "a.nxml", JATS)
    assert text(article).split("\n\n") == [
        "Iron in E. coli", "Aim", "We count Fe2+.", "Results", "Iron rose [1].", "strain iron", "K12 5", "Deeper",
        "It fell x+1 again.",
    ]  # fmt: skip
    assert isinstance(article, Raw) and (article.uri, article.format) == ("a.nxml", "jats")


def test_jats_sets_have_an_article_a_number(tmp_path: Path) -> None:
    article = JATS[JATS.index("<article ") :]
    (tmp_path / "a.xml").write_text(f"<pmc-articleset>{article}{article}<article/></pmc-articleset>")
    rows = read(tmp_path / "a.xml")
    assert [(row.uri, isinstance(row, Raw)) for row in rows] == [
        ("a.xml#1", True),
        ("a.xml#2", True),
        ("a.xml#3", False),
    ]


def test_xml_is_known_by_its_root_element(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(PUBMED)
    assert [row.format for row in read(tmp_path / "a.xml") if isinstance(row, Raw)] == ["pubmed"] * 2
    assert reason(one(tmp_path / "b.xml", "<rss><item/></rss>")) == "unknown_xml"


ENTITIES = '<!DOCTYPE article [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><article><body><p>&b;</p></body></article>'
EXTERNAL = '<!DOCTYPE article [<!ENTITY a SYSTEM "file:///etc/passwd">]><article><body><p>&a;</p></body></article>'


@pytest.mark.parametrize("content", [ENTITIES, EXTERNAL])
def test_xml_entities_are_not_expanded(tmp_path: Path, content: str) -> None:
    assert reason(one(tmp_path / "a.xml", content)) == "xml_entities"
    assert reason(one(tmp_path / "b.xml", content.replace("article", "PubmedArticleSet"), "pubmed")) == "xml_entities"


def test_xml_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = "<sec>" * (xml_stream.MAX_DEPTH + 1) + "x" * xml_stream.PIECE_BYTES
    assert reason(one(tmp_path / "a.xml", f"<article>{deep}")) == "too_deep"
    monkeypatch.setattr(xml_stream, "MAX_ELEMENT_BYTES", 100_000)
    article = f"<article><body><p>{'x' * 60_000}</p></body></article>"
    (tmp_path / "b.xml").write_text(
        f"<articles>{article * 3}<article><body><p>{'x' * 200_000}</p></body></article></articles>"
    )
    *kept, last = read(tmp_path / "b.xml")
    assert (
        len(kept) == 3
        and reason(last) == "row_too_long"
        and "the 3 rows before are kept" in getattr(last, "detail", "")
    )


def test_texts_that_are_not_utf8_are_decoded_and_say_as_what(tmp_path: Path) -> None:
    words = "Die Größe der Straße ist schön."
    for encoding, name in (("utf-8-sig", "utf-8"), ("utf-16", "utf-16-le"), ("cp1252", "cp1252"), ("utf-32-be", None)):
        content = words.encode(encoding)
        row = one(tmp_path / "a.txt", content if name else b"\0\0\xfe\xff" + content)
        assert text(row) == words and isinstance(row, Raw) and row.encoding == (name or "utf-32-be"), encoding
    assert text(one(tmp_path / "a.md", "# Iron\n\nin *cells*")) == "# Iron\n\nin *cells*"
    assert reason(one(tmp_path / "b.txt", b"text\0more")) == "nul_bytes"
    assert reason(one(tmp_path / "c.txt", bytes(range(256)) * 9)) in ("nul_bytes", "not_utf8")
    assert reason(one(tmp_path / "d.txt", b"\xff\xfea")) == "not_utf8"


def test_a_row_that_is_not_utf8_is_named_with_its_byte(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "good"}\n{"text": "\xe9"}\n')
    _, bad = read(tmp_path / "a.jsonl")
    assert reason(bad) == "not_utf8" and "byte 10 of the row, 27 of the file" in getattr(bad, "detail", "")


ROWS = [{"text": f'row "{number}" [ {{ \\ }}, é'} for number in range(300)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b"\xef\xbb\xbf" + LINES),
        ("a.json", b"\xef\xbb\xbf [" + json.dumps(ROWS, indent=1).encode()[1:] + b"\n"),
        ("b.json", json.dumps(ROWS, ensure_ascii=False, separators=(",", ":")).encode()),
        ("lines.json", LINES),
    ],
)
def test_the_byte_range_of_a_row_is_the_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> None:
    monkeypatch.setattr(json_rows, "SKIP_BYTES", 7)  # pieces end inside strings, escapes and brackets
    (tmp_path / name).write_bytes(content)
    rows = read(tmp_path / name)
    assert [text(row) for row in rows] == [row["text"] for row in ROWS]
    for row, expected in zip(rows, ROWS, strict=True):
        assert isinstance(row, Raw) and row.byte_range is not None
        start, length = row.byte_range
        assert json.loads(content[start : start + length]) == expected


def test_an_array_ends_at_what_is_broken(tmp_path: Path) -> None:
    for content, kept, told in (
        ('[{"text": "a"}, {"text": b}, {"text": "c"}]', 1, "broken_json"),
        ('[{"text": "a"}, {"text": "b"}', 1, "broken_json"),
        ('[{"text": "a"},]', 1, "broken_json"),
        ('[{"text": "a"}] x', 1, "broken_json"),
        ('[{"text": "a"}}', 1, "broken_json"),
        ("[]", 0, "empty_file"),
        ("[", 0, "broken_json"),
    ):
        (tmp_path / "a.json").write_text(content)
        *before, last = read(tmp_path / "a.json")
        assert (len(before), reason(last)) == (kept, told), content
        assert all(isinstance(row, Raw) for row in before), content


def test_a_row_that_is_too_long_costs_that_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "MAX_ROW_BYTES", 100)
    monkeypatch.setattr(json_rows, "SKIP_BYTES", 64)
    rows = [{"text": "a"}, {"text": "b" * 1000}, {"text": "c"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    for name, third in (("a.jsonl", ByteRange(14 + 1013, 14)), ("a.json", ByteRange(1 + 15 + 1014, 13))):
        first, long, last = read(tmp_path / name)
        assert (text(first), text(last)) == ("a", "c"), name
        assert reason(long) == "row_too_long" and long.uri == f"{name}#2"
        assert isinstance(last, Raw) and last.byte_range == third
    monkeypatch.setattr(tables, "MAX_ROW_BYTES", 100)
    (tmp_path / "a.csv").write_text(f"text\na\n{'b' * 1000}\nc\n")
    first, long = read(tmp_path / "a.csv")
    assert (text(first), reason(long), long.uri) == ("a", "row_too_long", "a.csv#2")


def test_json_too_deep_and_rows_with_too_many_columns_cost_that_row(tmp_path: Path) -> None:
    deep = '{"text": ' + "[" * 100_000 + "]" * 100_000 + "}"
    wide = json.dumps({f"column{number}": number for number in range(100_000)})
    (tmp_path / "a.jsonl").write_text(f'{deep}\n{wide}\n{{"text": "good"}}\n')
    first, second, good = read(tmp_path / "a.jsonl")
    assert (reason(first), reason(second), text(good)) == ("too_deep", "too_many_columns", "good")
    (tmp_path / "a.json").write_text(f'[{deep}, {{"text": "good"}}]')
    first, good = read(tmp_path / "a.json")
    assert (reason(first), text(good)) == ("too_deep", "good")
    assert reason(one(tmp_path / "a.csv", ",".join(f"c{number}" for number in range(100_000)))) == "too_many_columns"


def test_packed_files_are_what_they_hold(tmp_path: Path) -> None:
    packs = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}
    for suffix, pack in packs.items():
        for name, content in {
            "a.jsonl": LINES,
            "b.html": HTML.encode(),
            "c.xml": PUBMED.encode(),
            "d.docx": docx(),
        }.items():
            (tmp_path / name).write_bytes(content)
            (tmp_path / f"{name}{suffix}").write_bytes(pack(content))
            plain, packed = read(tmp_path / name), read(tmp_path / f"{name}{suffix}")
            assert [text(row) for row in plain if isinstance(row, Raw)] == [
                text(row) for row in packed if isinstance(row, Raw)
            ]
            assert len(plain) == len(packed)
    frames = [zstandard.ZstdCompressor().compress(line + b"\n") for line in LINES.splitlines()]
    (tmp_path / "many.jsonl.zst").write_bytes(b"".join(frames))
    assert len(read(tmp_path / "many.jsonl.zst")) == 300


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_packed_file_that_is_cut_keeps_what_was_read(tmp_path: Path, suffix: str) -> None:
    lines = "".join(json.dumps({"text": f"row {n} {n * n * 7919}"}) + "\n" for n in range(20_000)).encode()
    whole = gzip.compress(lines) if suffix == ".gz" else zstandard.ZstdCompressor().compress(lines)
    path = tmp_path / f"a.jsonl{suffix}"
    for length in (len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        *kept, last = read(path)
        assert reason(last) == "damaged_file" and 0 < len(kept) <= 20_000
        assert all(isinstance(row, Raw) for row in kept)
    path.write_bytes(whole + b"junk")
    assert reason(read(path)[-1]) == "damaged_file"


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_bomb_ends_where_its_ratio_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    monkeypatch.setattr(unpack, "FREE_UNPACKED_BYTES", 1 << 20)
    line = json.dumps({"text": "a" * 1000}).encode() + b"\n"
    content = line * 20_000
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(
        gzip.compress(content, 9) if suffix == ".gz" else zstandard.ZstdCompressor(level=9).compress(content)
    )
    *kept, last = read(path)
    assert reason(last) == "zip_bomb" and f"the {len(kept)} rows before are kept" in getattr(last, "detail", "")
    assert 0 < len(kept) < 20_000


def test_a_directory_may_mix_formats_and_a_name_that_says_nothing_needs_one(tmp_path: Path) -> None:
    (tmp_path / "odd").write_text("words")
    with pytest.raises(
        DataError, match=r"odd: rows are read from files ending in \.jsonl.*set `format` to one of `text`, `html`"
    ):
        read(tmp_path / "odd")
    assert [text(row) for row in read(tmp_path / "odd", "text")] == ["words"]


def test_a_header_of_parquet_that_names_a_column_twice_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="names `text` more than once"):
        read(tmp_path / "a.parquet")
