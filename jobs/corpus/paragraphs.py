"""Paragraphs that several texts of a corpus share: the first document keeps them, the others lose them.

    documents --> key of every long paragraph --by key--> all but those of its first document --by document--> texts without

A key is half of a sha256, so that no two paragraphs of any corpus have the same. First is what may be used most freely,
then the order of the sources, of the uris and of the text: what stays follows from the data alone.
"""

# pyarrow.compute makes its functions when it is imported:
# pyright: reportAttributeAccessIssue=false

import hashlib
from collections.abc import Container

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from configs.schema.corpus import CorpusStage
from jobs.corpus.dedup import first_of_equals
from jobs.corpus.schema import partitions_of
from jobs.corpus.writing import Sorted, set_aside

PARAGRAPH_SCHEMA = pa.schema(
    [
        ("partition", pa.int32()),
        ("key", pa.binary(16)),
        ("document_id", pa.int64()),
        ("position", pa.int32()),
        ("precedence", pa.int32()),
        ("uri", pa.string()),
    ]
)
"""Where a paragraph stands: the number `position` of its document's paragraphs, short ones too."""

GONE_SCHEMA = pa.schema(
    [("partition", pa.int32()), ("document_id", pa.int64()), ("position", pa.int32()), ("held_by", pa.string())]
)
"""A paragraph that goes, the partition of its document, and the uri of the document that keeps it."""

KIND = "repeated_paragraph"
"""Under `stripped`: characters that went."""
REASON = "repeated_paragraphs"


def paragraphs_of(documents: pa.Table, minimum_characters: int, partitions: int) -> pa.Table:
    """PARAGRAPH_SCHEMA of the texts among CANDIDATE_SCHEMA; questions and judged answers repeat each other on purpose."""
    texts = documents.filter(_is_text(documents))
    rows = []
    columns = [texts[name].to_pylist() for name in ("text", "document_id", "precedence", "uri")]
    for text, document_id, precedence, uri in zip(*columns, strict=True):
        for position, paragraph in enumerate(text.split(_separator(text))):
            if is_long(paragraph, minimum_characters):
                key = _key(paragraph)
                rows.append((int.from_bytes(key[:4]) % partitions, key, document_id, position, precedence, uri))
    arrays = zip(*rows, strict=True) if rows else [[] for _ in PARAGRAPH_SCHEMA]
    return pa.table(
        [pa.array(array, field.type) for array, field in zip(arrays, PARAGRAPH_SCHEMA, strict=True)],
        schema=PARAGRAPH_SCHEMA,
    )


def repeated(paragraphs: pa.Table, partitions: int) -> pa.Table:
    """GONE_SCHEMA: of every key all that is not in its first document, in the order of documents and positions.

    Args:
        paragraphs: PARAGRAPH_SCHEMA in any order; a key that is here is here with all of its documents.
    """
    by = ("key", "precedence", "uri", "document_id", "position")
    ordered = paragraphs.sort_by([(name, "ascending") for name in by])
    place = first_of_equals(ordered["key"].to_numpy(zero_copy_only=False))
    held_by = ordered["uri"].take(pa.array(place))
    of = partitions_of(ordered["document_id"].to_numpy(), partitions)
    table = pa.table([pa.array(of), ordered["document_id"], ordered["position"], held_by], schema=GONE_SCHEMA)
    keeper = ordered["document_id"].to_numpy()[place]  # a refrain stays where it is
    table = table.filter(pa.array(keeper != ordered["document_id"].to_numpy()))
    return table.sort_by([("document_id", "ascending"), ("position", "ascending")])


def without_repeated(partition: Sorted, gone: pa.Table, stage: CorpusStage) -> Sorted:
    """The documents without their paragraphs in `gone` (GONE_SCHEMA); those with hardly anything else are set aside."""
    documents = partition.documents
    lost: dict[int, dict[int, str]] = {}
    for row in gone.to_pylist():
        lost.setdefault(row["document_id"], {})[row["position"]] = row["held_by"]
    ids, texts, stripped = (documents[name].to_pylist() for name in ("document_id", "text", "stripped"))
    held_by: list[str | None] = [None] * len(ids)
    for row, (document, is_text) in enumerate(zip(ids, _is_text(documents).to_pylist(), strict=True)):
        if not is_text or document not in lost:
            continue
        rest = _rest(texts[row], lost[document], stage)
        if rest is None:
            held_by[row] = lost[document][min(lost[document])]
            continue
        counts = {**orjson.loads(stripped[row] or "{}"), KIND: len(texts[row]) - len(rest)}
        texts[row], stripped[row] = rest, orjson.dumps(counts).decode()
    for name, values in (("text", texts), ("stripped", stripped)):
        place = documents.schema.get_field_index(name)
        documents = documents.set_column(place, name, pa.array(values, documents.schema.field(name).type))
    goes = pa.array([uri is not None for uri in held_by], pa.bool_())
    aside = set_aside(documents.filter(goes), REASON, pa.chunked_array([pa.array(held_by, pa.string()).filter(goes)]))
    return Sorted(documents.filter(pc.invert(goes)), pa.concat_tables([partition.aside, aside]))


def _rest(text: str, lost: Container[int], stage: CorpusStage) -> str | None:
    """What stays of a text; None where it has no long paragraph and is short as a whole."""
    assert stage.repeated_paragraphs is not None
    separator = _separator(text)
    stay = [paragraph for position, paragraph in enumerate(text.split(separator)) if position not in lost]
    rest = separator.join(stay).strip("\n")
    has_own = any(is_long(paragraph, stage.repeated_paragraphs.minimum_characters) for paragraph in stay)
    return rest if has_own or is_long(rest, max(stage.cleaning.minimum_characters, 1)) else None


def _is_text(documents: pa.Table) -> pa.ChunkedArray:
    return pc.and_(pc.is_null(documents["messages"]), pc.is_null(documents["judgement"]))


def is_long(paragraph: str, minimum_characters: int) -> bool:
    return len(paragraph.strip()) >= minimum_characters


def _separator(text: str) -> str:
    """Texts from web pages have a line for every paragraph, and no empty ones."""
    return "\n\n" if "\n\n" in text else "\n"


def _key(paragraph: str) -> bytes:
    return hashlib.sha256(" ".join(paragraph.split()).casefold().encode()).digest()[:16]
