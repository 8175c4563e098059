"""Documents that are files of their own (HTML, PDF, DOCX, JATS, texts in other encodings), and files that are packed."""

import zipfile
from pathlib import Path

import pytest

from jobs.corpus import docx as docx_reader
from jobs.corpus import guarded, xml_stream
from jobs.corpus.raw import Raw
from tests.corpus.made_files import HTML, JATS, docx, docx_of, pdf
from tests.corpus.read_one import one, read, reason, text
from tests.corpus.sources import PUBMED


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


JATS_PARTS = """<article><front><article-meta><title-group><article-title>Iron</article-title><subtitle>In cells</subtitle>
<trans-title-group><trans-title>Eisen</trans-title></trans-title-group><alt-title>Running head</alt-title></title-group>
<abstract><p>Short.</p></abstract><trans-abstract><p>Kurz.</p></trans-abstract></article-meta></front>
<body><p>Run <code>x</code> as in <code language="python">
for x in y:
    print(x)
</code> and see.</p><preformat>a  b
c</preformat><speech><speaker>Dr. A</speaker><p>Yes.</p></speech><p>Then <speech><speaker>B</speaker><p>No.</p></speech></p></body>
<back><app-group><app><title>Appendix</title><p>More.</p></app></app-group><ref-list><ref>Jones 1990</ref></ref-list></back>
<floats-group><fig><label>Fig. 1</label><caption><p>A cell.</p></caption><graphic/></fig></floats-group>
<sub-article><front-stub><title-group><article-title>Review</article-title></title-group>
<contrib-group><contrib><name><surname>Smith</surname></name></contrib></contrib-group></front-stub><body><p>Good.</p></body>
<sub-article><body><p>Inner.</p></body></sub-article></sub-article>
<response><front-stub/><body><p>Thanks.</p></body></response></article>"""


def test_jats_leaves_out_no_part_that_is_text_and_keeps_the_lines_of_code(tmp_path: Path) -> None:
    assert text(one(tmp_path / "a.xml", JATS_PARTS)).split("\n\n") == [
        "Iron", "In cells", "Eisen", "Short.", "Kurz.", "Run x as in", "for x in y:\n    print(x)", "and see.", "a  b\nc", "Dr. A",
        "Yes.", "Then B No.", "Appendix", "More.", "Fig. 1", "A cell.", "Review", "Good.", "Inner.", "Thanks.",
    ]  # fmt: skip
    deep = "<sub-article>" * 990 + "<body><p>Deep.</p></body>" + "</sub-article>" * 990
    assert text(one(tmp_path / "b.xml", f"<article>{deep}</article>")) == "Deep."


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


def test_japanese_mail_is_ascii_byte_by_byte_and_read_all_the_same(tmp_path: Path) -> None:
    words = "鉄は細胞に必要である。 Iron."
    row = one(tmp_path / "a.txt", words.encode("iso2022_jp"))
    assert text(row) == words and isinstance(row, Raw) and row.encoding == "iso2022_jp"
    page = one(tmp_path / "a.html", f"<html><body><p>{words}</p></body></html>".encode("iso2022_jp"))
    assert words in text(page)
    coloured = "a \x1b[1mbold\x1b[0m word, and \x1b$Bnothing of that"
    assert text(one(tmp_path / "b.txt", coloured)) == coloured


def test_a_row_that_is_not_utf8_is_named_with_its_byte(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "good"}\n{"text": "\xe9"}\n')
    _, bad = read(tmp_path / "a.jsonl")
    assert reason(bad) == "not_utf8" and "byte 10 of the row, 27 of the file" in getattr(bad, "detail", "")
