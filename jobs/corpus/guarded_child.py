"""Runs in a process of its own (jobs/corpus/guarded.py): a PDF or an HTML page on stdin -> JSON on stdout.

    {"text": ...} or {"reason": ..., "detail": ...}

It imports nothing of ours, so that it starts in some hundredths of a second wherever its file lies.
"""

import json
import re
import resource
import sys

MAX_PAGES = 20_000
"""The longest books and registers have some thousands; a damaged page tree may claim millions."""
MAX_CHARACTERS = 256 << 20
"""Of text, as of a text file (MAX_DOCUMENT_BYTES)."""
ENCRYPTED = 4
"""FPDF_ERR_PASSWORD"""

LEFT_OUT = (
    "nav", "aside", "form", "dialog", "footer", "body > header", "template",
    "[role=navigation]", "[role=banner]", "[role=contentinfo]", "[role=search]",
)  # fmt: skip
"""Of a page. resiliparse's own `main_content` drops most bullet lists (2.0.1), which in text of a field is content."""


def pdf_text(content: bytes) -> dict[str, str]:
    """The text layer, pages joined by form feeds."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(content)
    except pypdfium2.PdfiumError as error:
        if error.err_code == ENCRYPTED:
            return {"reason": "encrypted", "detail": "it opens with a password only"}
        return {"reason": "broken_pdf", "detail": str(error)}
    if len(document) > MAX_PAGES:
        return {"reason": "too_large", "detail": f"{len(document):,} pages, at most {MAX_PAGES:,}"}
    pages, characters = [], 0
    for number in range(len(document)):
        try:
            page = document[number]
            text = page.get_textpage().get_text_bounded()
            page.close()
        except pypdfium2.PdfiumError as error:
            return {"reason": "broken_pdf", "detail": f"page {number + 1} of {len(document)}: {error}"}
        pages.append(text.replace("\r\n", "\n").replace("\f", "\n"))
        characters += len(text)
        if characters > MAX_CHARACTERS:
            return {
                "reason": "too_large",
                "detail": f"more than {MAX_CHARACTERS >> 20} M characters by page {number + 1}",
            }
    if not "".join(pages).strip():
        return {"reason": "no_text", "detail": f"{len(pages)} pages without a text layer; scanned pages need OCR first"}
    return {"text": "\f".join(pages)}


def html_text(html: str) -> dict[str, str]:
    """Title and main text: of <main> where a page has one, else of its body, without what stands around it on every page."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse(html)
    main = tree.body.query_selector("main, [role=main]") if tree.body is not None else None
    page = HTMLTree.parse(main.html) if main is not None else tree
    text = extract_plain_text(
        page, preserve_formatting=True, main_content=False, alt_texts=False, skip_elements=list(LEFT_OUT)
    ).strip()
    if not text:
        return {"reason": "no_text", "detail": "no text outside navigation, headers and footers"}
    title = " ".join((tree.title or "").split())
    return {"text": text if not title or text.startswith(title) else f"{title}\n\n{text}"}


def without_surrogates(text: str) -> str:
    """PDF fonts may map glyphs to halves of characters, which no UTF-8 holds: they become U+FFFD."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def main(kind: str, cpu_s: int, memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    # The first limit ends it by SIGXCPU, which says why; at the second it would be SIGKILL, which does not.
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    content = sys.stdin.buffer.read()
    answer = pdf_text(content) if kind == "pdf" else html_text(content.decode())
    sys.stdout.buffer.write(json.dumps({key: without_surrogates(value) for key, value in answer.items()}).encode())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
