"""What near-duplicates are found by: one row for every document, beside the corpus, also for later corpora to compare with.

documents --describe--> MEMBER_SCHEMA --near/part-NNNNN.parquet--> near.py: who meets;  clusters.py: who stays
"""

# pyarrow.compute makes its functions when it is imported:
# pyright: reportAttributeAccessIssue=false

from dataclasses import dataclass

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from cluster.storage import Store
from jobs.corpus.minhash import ALGORITHM, HASHES, signatures
from jobs.corpus.schema import DataError, read_table

SIGNATURE = pa.binary(4 * HASHES)
MEMBER_SCHEMA = pa.schema(
    [
        ("document_id", pa.int64()),
        ("sha256", pa.string()),
        ("split_by", pa.string()),
        ("precedence", pa.int32()),
        ("characters", pa.int64()),
        ("uri", pa.string()),
        ("signature", SIGNATURE),
        ("answers", pa.binary()),
    ]
)
"""`split_by` as in CANDIDATE_SCHEMA, null where it is the sha256. `signature` is of the text, null of judged answers, whose
prompts are alike on purpose, and of texts without words; `answers` is of what a conversation answers: two questions
about one long passage are no copies of each other; null of texts, which costs nothing where the width is not fixed."""

INDEX = f"{ALGORITHM}/members-2"
"""Of an earlier corpus that can be compared with. The number is that of MEMBER_SCHEMA."""
SLICE = 1024
"""Documents."""
WORD = r"[\p{L}\p{M}\p{N}]"
"""RE2. As ngrams.py has them."""


@dataclass(frozen=True)
class IndexFile:
    """One file of members, of this corpus (age 0 is the oldest) or of an earlier one."""

    root: str
    name: str
    sha256: str
    age: int

    def read(self, columns: list[str]) -> pa.Table:
        return read_table(Store(self.root), self.name, self.sha256, columns)


def describe(documents: pa.Table) -> pa.Table:
    """MEMBER_SCHEMA of CANDIDATE_SCHEMA. A slice at a time: words and their hashes are several times what the texts are."""
    slices = [_described(documents.slice(start, SLICE)) for start in range(0, documents.num_rows, SLICE)]
    return pa.concat_tables([MEMBER_SCHEMA.empty_table(), *slices]).sort_by("document_id").combine_chunks()


def _described(documents: pa.Table) -> pa.Table:
    texts, sha256, split_by = documents["text"], documents["sha256"], documents["split_by"]
    compared = pc.and_(pc.is_null(documents["judgement"]), pc.match_substring_regex(texts, WORD))
    answers = [None if messages is None else _answers(messages) for messages in documents["messages"].to_pylist()]
    return pa.table(
        {
            "document_id": documents["document_id"], "sha256": sha256,
            "split_by": pc.if_else(pc.equal(split_by, sha256), pa.scalar(None, pa.string()), split_by),
            "precedence": documents["precedence"], "characters": pc.utf8_length(texts).cast(pa.int64()),
            "uri": documents["uri"], "signature": _signatures(texts, compared),
            "answers": _signatures(
                pa.array(answers, pa.large_string()), pc.and_(compared, pc.is_valid(documents["messages"]))
            ).cast(pa.binary()),
        },
        schema=MEMBER_SCHEMA,
    )  # fmt: skip


def _answers(messages: str) -> str:
    return "\n".join(turn["content"] for turn in orjson.loads(messages) if turn["role"] == "assistant")


def _signatures(texts: pa.ChunkedArray | pa.Array, wanted: pa.ChunkedArray) -> pa.Array:
    """SIGNATURE of the texts that are wanted, null of the others."""
    is_wanted = wanted.to_numpy(zero_copy_only=False).astype(bool)
    rows = np.zeros((len(is_wanted), HASHES), dtype=np.uint32)
    rows[is_wanted] = signatures(texts.filter(pa.array(is_wanted)))
    validity = pa.py_buffer(np.packbits(is_wanted, bitorder="little").tobytes())
    return pa.FixedSizeBinaryArray.from_buffers(SIGNATURE, len(rows), [validity, pa.py_buffer(rows.tobytes())])


def matrix(column: pa.ChunkedArray) -> np.ndarray:
    """(N, HASHES) uint32 of a column of signatures; where it is null, nothing that means anything."""
    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        whole = pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.array([], SIGNATURE)
    data = whole.buffers()[1]
    rows = np.frombuffer(data, dtype=np.uint32) if data is not None else np.empty(0, dtype=np.uint32)
    return rows.reshape(-1, HASHES)[whole.offset : whole.offset + len(whole)]


def index_of(corpus: Store, name: str, age: int) -> list[IndexFile]:
    """The members of an earlier corpus. Raises DataError where it has none that can be compared with."""
    manifest = corpus.read_json("manifest.json")
    if manifest.get("near_duplicates", {}).get("algorithm") != INDEX:
        raise DataError(
            f"near_duplicates.against: {name} has no signatures of {INDEX}; make it again with `near_duplicates: {{}}`"
        )
    files = manifest["files"]
    return [
        IndexFile(corpus.root, file, entry["sha256"], age)
        for file, entry in files.items()
        if file.startswith("near/part-")
    ]
