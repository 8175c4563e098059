"""What a file holds, by the end of its name, in upper or lower case; each may be packed as well (.gz, .zst)."""

from jobs.corpus.unpack import without_packing

ROWS = {
    "jsonl": (".jsonl", ".ndjson"),
    "json": (".json",),
    "parquet": (".parquet",),
    "csv": (".csv",),
    "tsv": (".tsv",),
}
DOCUMENTS = {
    "text": (".txt", ".md", ".markdown", ".text"),
    "html": (".html", ".htm", ".xhtml"),
    "pdf": (".pdf",),
    "docx": (".docx",),
    "pubmed": (".xml",),
    "jats": (".xml", ".nxml"),
}
"""By the name that `format` on a source may say."""
XML = (".xml", ".nxml")
"""PubMed's or JATS: the root element tells."""


def kind_of(name: str) -> str | None:
    """The key in ROWS or DOCUMENTS, `xml`, or None for a name that says nothing."""
    plain = without_packing(name)
    if plain.endswith(XML):
        return "xml"
    return next((kind for kind, suffixes in (ROWS | DOCUMENTS).items() if plain.endswith(suffixes)), None)


def suffixes_of(source_format: str) -> tuple[str, ...]:
    """What is taken from a directory or prefix; a file or glob that is named is taken whatever its name."""
    if source_format == "auto":
        return tuple(dict.fromkeys(suffix for suffixes in (ROWS | DOCUMENTS).values() for suffix in suffixes))
    if source_format == "jsonl":
        return ROWS["jsonl"]
    return DOCUMENTS.get(source_format) or tuple(suffix for suffixes in ROWS.values() for suffix in suffixes)
