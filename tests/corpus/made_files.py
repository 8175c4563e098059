"""Small files of every format, written by hand, for tests of the readers and as the seeds of the fuzz test."""

import io
import zipfile
import zlib
from xml.sax.saxutils import escape

HTML = """<!doctype html><html><head><title>Iron &amp; cells</title><style>p {}</style></head><body>
<header><a href="/">Home</a></header><nav><ul><li><a href="/b">About us</a></li></ul></nav>
<main><h1>Iron</h1><p>Cells need <b>iron</b>, about 5&nbsp;mg.</p><ul><li>first point</li><li>second point</li></ul>
<pre>x = 1
  y = 2</pre></main><footer>Copyright</footer><script>alert(1)</script></body></html>
"""

JATS = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE article PUBLIC "-//NLM//DTD JATS 1.3//EN" "JATS-archivearticle1-3.dtd">
<article xmlns:xlink="http://www.w3.org/1999/xlink"><front><journal-meta><journal-title>J. Iron</journal-title></journal-meta>
<article-meta><title-group><article-title>Iron in <italic>E. coli</italic></article-title></title-group>
<contrib-group><contrib><name><surname>Smith</surname></name></contrib></contrib-group>
<abstract><sec><title>Aim</title><p>We count Fe<sup>2+</sup>.</p></sec></abstract>
<abstract abstract-type="graphical"><p>A picture.</p></abstract></article-meta></front>
<body><sec><title>Results</title><p>Iron rose <xref ref-type="bibr">[1]</xref>.<fig><graphic/></fig></p>
<table-wrap><table><tr><th>strain</th><th>iron</th></tr><tr><td>K12</td><td>5</td></tr></table></table-wrap>
<sec><title>Deeper</title><p>It fell <inline-formula><tex-math>\\documentclass{x}</tex-math><mml>x+1</mml></inline-formula> again.</p></sec>
</sec></body><back><ack><p>We thank nobody.</p></ack><ref-list><ref>Jones 1990</ref></ref-list></back></article>
"""

WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
DOCX_BODY = """<w:p><w:r><w:t>Iron </w:t></w:r><w:ins><w:r><w:t xml:space="preserve">in cells</w:t></w:r></w:ins>
<w:del><w:r><w:delText>gone</w:delText></w:r></w:del></w:p><w:p/>
<w:tbl><w:tr><w:tc><w:p><w:r><w:t>strain</w:t></w:r></w:p></w:tc><w:tc><w:p><w:r><w:t>iron</w:t></w:r></w:p></w:tc></w:tr>
<w:tr><w:tc><w:p><w:r><w:t>K12</w:t></w:r></w:p></w:tc><w:sdt><w:sdtContent><w:tc><w:p><w:r><w:t>5</w:t></w:r></w:p></w:tc></w:sdtContent></w:sdt></w:tr></w:tbl>
<w:p><w:r><w:t>after</w:t><w:tab/><w:t>it</w:t></w:r></w:p><w:sectPr/>"""


def docx(body: str = DOCX_BODY, prolog: str = "") -> bytes:
    """The parts of a .docx that a reader needs."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr(
            "word/document.xml",
            f'<?xml version="1.0"?>{prolog}<w:document xmlns:w="{WORD}"><w:body>{body}</w:body></w:document>',
        )
    return target.getvalue()


def docx_of(*paragraphs: str) -> bytes:
    return docx("".join(f"<w:p><w:r><w:t>{escape(text)}</w:t></w:r></w:p>" for text in paragraphs))


def pdf(*pages: str | bytes, encrypted: bool = False) -> bytes:
    """A PDF with the lines of each page in Helvetica; of bytes, with them as the page's drawing commands."""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%s] /Count %d >>"
        % (b" ".join(b"%d 0 R" % (4 + 2 * number) for number in range(len(pages))), len(pages)),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, page in enumerate(pages):
        drawing = page if isinstance(page, bytes) else _lines(page)
        packed = zlib.compress(drawing, 9)
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >> /Contents %d 0 R >>"
            % (5 + 2 * number)
        )
        objects.append(b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(packed), packed))
    # A password nobody knows: 32 bytes that no key makes.
    guard = b""
    if encrypted:
        objects.append(b"<< /Filter /Standard /V 1 /R 2 /O <%s> /U <%s> /P -4 >>" % (b"ab" * 32, b"cd" * 32))
        guard = b" /Encrypt %d 0 R /ID [<00> <00>]" % len(objects)
    content = b"%PDF-1.4\n"
    places = []
    for number, value in enumerate(objects, start=1):
        places.append(len(content))
        content += b"%d 0 obj\n%s\nendobj\n" % (number, value)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"trailer\n<< /Size %d /Root 1 0 R%s >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, guard, len(content))
    return content + b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1) + table + end


def _lines(text: str) -> bytes:
    return ("BT /F1 12 Tf 72 720 Td " + " ".join(f"({line}) Tj 0 -14 Td" for line in text.split("\n")) + " ET").encode()
