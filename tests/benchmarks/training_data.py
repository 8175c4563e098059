"""What contenders train on: rows of random tokens, real abstracts, pairs cut from abstracts.

pubmed XML --jobs.corpus.pubmed, the model's tokenizer--> documents --jobs.corpus.pack--> packed rows
                                                                   --cut--> pairs
"""

import json
import random
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "artifacts/assets/smollm2-135m-instruct"
ABSTRACTS = ROOT / "artifacts/assets/pubmed/pubmed21n1298.xml.gz"
CONTEXT = 1024
"""Tokens of a packed row."""
LONGEST_DOCUMENT = 512
"""Longer abstracts are cut: one in fifty."""
PROMPT_TOKENS, ANSWER_TOKENS = 128, 128
ROWS_PER_MICRO_BATCH = 2


def random_rows(vocabulary: int, rows: int) -> list:
    """Full rows of random tokens in segments of 100 to 400, about as long as abstracts; content does not change the speed."""
    from jobs.records import PackedRow

    generator = random.Random(0)
    made = []
    for _ in range(rows):
        lengths: list[int] = []
        while sum(lengths) < CONTEXT:
            lengths.append(min(generator.randint(100, 400), CONTEXT - sum(lengths)))
        weights = [float(index > 0) for length in lengths for index in range(length)]
        tokens = [generator.randrange(vocabulary) for _ in range(CONTEXT)]
        made.append(PackedRow(tokens, weights, lengths, [0] * len(lengths)))
    return made


def write_shards(store: Any, rows: list) -> Any:
    """The rows as a shards artifact in `store`, a cluster.storage.Store: one file, all of it training."""
    import hashlib
    from dataclasses import asdict

    import pyarrow as pa

    from jobs.corpus.schema import INDEX_SCHEMA, ROW_SCHEMA, parquet_bytes
    from jobs.train.reader import shard_name

    index = [
        {"shard": 0, "row": number, "tokens": len(row.input_ids), "weight": sum(row.weights), "source": "random"}
        for number, row in enumerate(rows)
    ]
    name = f"train/{shard_name(0)}"
    written = parquet_bytes(pa.Table.from_pylist([asdict(row) for row in rows], schema=ROW_SCHEMA))
    store.write(name, written)
    store.write("train/index.parquet", parquet_bytes(pa.Table.from_pylist(index, schema=INDEX_SCHEMA)))
    files = {name: {"sha256": hashlib.sha256(written).hexdigest(), "size": len(written)}}
    store.write_json("manifest.json", {"files": files, "context": CONTEXT, "rows": "text"})
    return store


def vocabulary_of(model: str) -> int:
    return json.loads(Path(model, "config.json").read_text())["vocab_size"]


def micro_batches_of(rows: list) -> list:
    """Packed rows, two to a micro-batch."""
    from jobs.train.batch import pack_rows

    starts = range(0, len(rows), ROWS_PER_MICRO_BATCH)
    return [pack_rows(rows[start : start + ROWS_PER_MICRO_BATCH]) for start in starts]


def documents(model: str, count: int) -> list[list[int]]:
    """The first `count` abstracts as tokens, each with its end-of-text token."""
    from transformers import AutoTokenizer

    from jobs.corpus.pubmed import read_pubmed_file

    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = [raw.text for raw in islice(read_pubmed_file(ABSTRACTS), count)]
    return [[*tokenizer(text).input_ids[: LONGEST_DOCUMENT - 1], tokenizer.eos_token_id] for text in texts]


def packed_documents(model: str, count: int) -> list:
    """The documents in rows, as a shards stage packs them."""
    import pyarrow as pa

    from jobs.corpus.pack import pack
    from jobs.records import PackedRow

    tokens = documents(model, count)
    segments = pa.table(
        {
            "input_ids": pa.array(tokens, pa.list_(pa.int32())),
            "weights": pa.array([[1.0] * len(ids) for ids in tokens], pa.list_(pa.float32())),
            "document_id": pa.array(range(count), pa.int64()),
        }
    )
    return [PackedRow(**row) for row in pack(segments, CONTEXT, "truncate").to_pylist()]


def pairs(model: str, count: int) -> list:
    """Examples of a prompt and two answers of fixed lengths: no contender gains by packing, so the engines are compared.

    The better answer goes on where the prompt ends, the worse one is of another abstract.
    """
    from jobs.records import ExampleRow

    length = PROMPT_TOKENS + ANSWER_TOKENS
    long_enough = [ids for ids in documents(model, 8 * count) if len(ids) >= length][:count]
    assert len(long_enough) == count, f"only {len(long_enough)} abstracts of {length} tokens"
    made = []
    for ids, other in zip(long_enough, long_enough[1:] + long_enough[:1], strict=True):
        better, worse = ids[:length], [*ids[:PROMPT_TOKENS], *other[-ANSWER_TOKENS:]]
        weights = [float(place >= PROMPT_TOKENS) for place in range(length)] * 2
        made.append(ExampleRow([*better, *worse], weights, [length] * 2, [0, 0], [0, 1], [PROMPT_TOKENS] * 2, 0.0))
    return made
