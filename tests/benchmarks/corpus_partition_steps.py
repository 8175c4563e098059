"""Steps that take a partition, a shard or all documents together, measured on one core: for tests/benchmarks/corpus_speed.py.

rows of a partition --write | near, clusters, contamination--> corpus --shards--> packed rows --driver, shard_refs--> what it holds
"""

import json
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from cluster.storage import Store
from configs.schema.corpus import ShardsStage
from jobs.corpus.pubmed import read_pubmed_file
from tests.benchmarks.corpus_files import ASSETS, PUBMED
from tests.benchmarks.corpus_measuring import candidates_of, corpus_stage, grown, size_of, timed

MODEL = ASSETS / "smollm2-135m-instruct"
CONVERSATIONS = 1000
COPIES = 4
"""Of every document, where what is alike is looked for."""


def write(texts: list[str], work: Path) -> dict[str, Any]:
    """One partition: exact duplicates, split, files. `peak` is over the bytes of its rows, which are not in it."""
    from jobs.corpus.writing import partition_writer

    stage, table, output = corpus_stage(), candidates_of(texts), Store(str(work / "written"))
    peak, _ = grown(lambda: partition_writer(stage, output, lambda: None)(0, table))
    seconds, report = timed(lambda: partition_writer(stage, output, lambda: None)(1, table))
    stored = sum(entry["size"] for entry in report["files"].values())
    total = size_of(texts)
    return {
        "write": {"bytes_per_s": total / seconds, "stored_share": stored / total, "peak_over_rows": peak / table.nbytes}
    }


def near(texts: list[str], work: Path) -> dict[str, Any]:
    """Signatures, their files, and the second pass over a partition that is known to have near-copies."""
    from jobs.corpus.clusters import CLUSTER_SCHEMA
    from jobs.corpus.members import describe
    from jobs.corpus.schema import write_table
    from jobs.corpus.writing import keep, kept, sort_out, without_near_duplicates, write_partition

    stage, table, output = corpus_stage(near_duplicates={}), candidates_of(texts), Store(str(work / "near"))
    total = size_of(texts)

    def first() -> Any:
        partition = sort_out(table, None)
        return partition, write_table(output, "near/part-00000.parquet", describe(partition.documents))

    peak, (partition, index) = grown(first)
    describe_s, _ = timed(lambda: write_table(output, "near/again.parquet", describe(partition.documents)))
    keep_s, files = timed(lambda: keep(0, partition, output))
    again_s, whole = timed(lambda: kept(files, output))
    clusters = CLUSTER_SCHEMA.empty_table()
    write_s, _ = timed(lambda: write_partition(0, without_near_duplicates(whole, clusters), stage, output))
    work_bytes = sum(path.stat().st_size for path in (work / "near" / "work").iterdir())
    return {
        "describe": {"bytes_per_s": total / describe_s, "peak_over_rows": peak / table.nbytes},
        "signatures": {"stored_bytes_a_document": index.size / index.rows},
        "keep": {"bytes_per_s": total / (keep_s + again_s), "stored_share": work_bytes / total},
        "write_kept": {"bytes_per_s": total / write_s},
    }


def clusters(texts: list[str], work: Path) -> dict[str, Any]:
    """What meets and what is alike, where every document has a near-copy; by document."""
    import numpy as np

    from jobs.corpus.clusters import CLUSTERS, cluster
    from jobs.corpus.members import IndexFile, describe, matrix
    from jobs.corpus.minhash import band_keys
    from jobs.corpus.near import pairs as pairs_of
    from jobs.corpus.schema import read_table, write_table
    from jobs.corpus.writing import sort_out

    described = describe(sort_out(candidates_of(texts), None).documents)
    ids = described["document_id"].to_numpy()
    copies = [described.set_column(0, "document_id", pa.array((ids >> 2 << 2) + copy)) for copy in range(COPIES)]
    members = pa.concat_tables(copies).sort_by("document_id").combine_chunks()
    count, output = members.num_rows, Store(str(work / "clusters"))
    keys_s, keys = timed(lambda: band_keys(matrix(members["signature"])))
    owners = np.repeat(members["document_id"].to_numpy(), keys.shape[1])
    peak_pairs, _ = grown(lambda: pairs_of(keys.ravel(), owners))
    pairs_s, pairs = timed(lambda: pairs_of(keys.ravel(), owners))
    index = write_table(output, "near/part-00000.parquet", members)
    met = write_table(output, "work/pairs-00000.parquet", pa.table({"a": pairs[0], "b": pairs[1]}))
    files = [IndexFile(output.root, index.name, index.sha256, 0)]
    peak, found = grown(lambda: cluster(files, {met.name: met.sha256}, 0.75, output, 8))
    cluster_s, _ = timed(lambda: cluster(files, {met.name: met.sha256}, 0.75, output, 8))
    read_s, written = timed(lambda: read_table(output, CLUSTERS, found["file"]["sha256"]))
    return {
        "keys": {"documents_per_s": count / keys_s}, "pairs": {"keys_per_s": len(owners) / pairs_s},
        "pairs_peak": {"bytes_a_key": peak_pairs / len(owners)},
        "cluster": {"documents_per_s": count / cluster_s, "bytes_a_document": peak / count},
        "clusters_read": {
            "bytes_per_s": found["file"]["size"] / read_s, "rows": written.num_rows, "stored_bytes_a_row": found["file"]["size"] / written.num_rows,
            "bytes_a_row": written.nbytes / written.num_rows,
        },
    }  # fmt: skip


def contamination(texts: list[str], work: Path) -> dict[str, Any]:
    """Against 1,000 evaluation texts, none of which a document holds."""
    del work
    import numpy as np

    from jobs.corpus.contamination import WORDS, Contamination, held_texts
    from jobs.corpus.ngrams import ngrams

    held = ngrams(pa.array(texts[-1000:], pa.large_string()), WORDS)
    of_texts = np.repeat(np.arange(1000), np.diff(held.offsets))
    order = np.argsort(held.hashes)
    known = Contamination(0.3, held.hashes[order], of_texts[order], np.bincount(of_texts), [""] * 1000)
    documents = pa.chunked_array([pa.array(texts[:-1000], pa.large_string())])
    seconds, _ = timed(lambda: held_texts(documents, known))
    return {"contamination": {"bytes_per_s": pc.sum(pc.binary_length(documents)).as_py() / seconds}}


def shards(texts: list[str], work: Path) -> dict[str, Any]:
    """Corpus files -> rows with their shard -> tokens, packed. `tokenise` and `pack` are of bytes of text."""
    from jobs.corpus.segments import load_tokenizer, read_tokenizer_files, text_segments, without_lone_tokens
    from jobs.corpus.shard_documents import partition_reader
    from jobs.corpus.shards import document_end_id, partition_writer
    from jobs.corpus.template import end_token_ids
    from jobs.corpus.writing import partition_writer as corpus_writer

    corpus, output = Store(str(work / "corpus")), Store(str(work / "shards"))
    report = corpus_writer(corpus_stage(heldout_fraction=0), corpus, lambda: None)(0, candidates_of(texts))
    name, entry = next((name, entry) for name, entry in report["files"].items() if name.startswith("train/"))
    gate = {"train": ["permissive"]}
    stage = ShardsStage(
        stage="shards", corpus="c", model="m", rows="text", shards=1, gate=gate, document_end="<|endoftext|>"
    )
    total = size_of(texts)
    read_s, tables = timed(lambda: list(partition_reader(stage, corpus)({"name": name, **entry})))
    documents = pa.concat_tables(tables)
    files = read_tokenizer_files(Store(str(MODEL)))
    tokenizer = load_tokenizer(files)
    end_id = document_end_id(stage, tokenizer)
    ends = end_token_ids(Store(str(MODEL)), tokenizer)
    made = partition_writer(stage, output, files, ends, end_id)
    peak, _ = grown(lambda: made(0, documents))
    whole_s, report = timed(lambda: made(1, documents))
    tokenise_s, segments = timed(
        lambda: without_lone_tokens(text_segments(documents, tokenizer, end_id, stage.fast_tokenizer), stage.context)
    )
    tokens = sum(map(len, segments.table["input_ids"].to_pylist()))
    stored = sum(entry["size"] for entry in report["files"].values())
    return {
        "conversations": _conversations(tokenizer, ends),
        "shard_read": {"bytes_per_s": total / read_s, "row_bytes_beside_text": (documents.nbytes - total) / documents.num_rows},
        "tokenise": {"bytes_per_s": total / tokenise_s, "bytes_a_token": total / tokens},
        "pack": {
            "bytes_per_s": total / (whole_s - tokenise_s), "peak_over_rows": peak / documents.nbytes,
            "stored_bytes_a_token": stored / tokens,
        },
    }  # fmt: skip


def _conversations(tokenizer: Any, ends: frozenset[int]) -> dict[str, float]:
    """Abstracts as conversations through the model's own template, by their bytes."""
    from jobs.corpus.segments import conversation_segments

    found = [row for row in read_pubmed_file(PUBMED) if row.messages is not None][:CONVERSATIONS]
    written = [orjson.dumps(row.messages).decode() for row in found]
    columns = {"document_id": range(len(found)), "messages": written, "uri": written, "source": written}
    stage = ShardsStage(stage="shards", corpus="c", model="m", rows="messages")
    documents = pa.table({name: pa.array(list(values)) for name, values in columns.items()})
    seconds, _ = timed(lambda: conversation_segments(documents, tokenizer, stage, ends))
    return {"bytes_per_s": size_of(written) / seconds}


def driver(texts: list[str], work: Path) -> dict[str, Any]:
    """What the driver and a rank that trains hold of every packed row; hashing of local files."""
    del texts
    from jobs.corpus.schema import write_table
    from jobs.corpus.shards import _index_table
    from jobs.fingerprint import file_sha256
    from jobs.train.plan import RowTable
    from jobs.train.reader import read_index

    shards, rows_of_shard = 40, 25_000
    text = json.dumps(
        {"tokens": [1001] * rows_of_shard, "weight": [1000.0] * rows_of_shard, "source": ["papers"] * rows_of_shard}
    )

    def indexed() -> pa.Table:
        reports = [{"index": {"train": json.loads(text)}} for _ in range(shards)]
        return _index_table({f"train/shard-{number:05d}.parquet": {} for number in range(shards)}, reports, "train")

    peak, _ = grown(indexed)
    index_s, table = timed(indexed)
    output = Store(str(work / "index"))
    write_table(output, "train/index.parquet", table)

    def planned() -> RowTable:
        found = read_index(output, "train")
        for epoch in (0, 1):
            found.epoch_order(0, epoch)
        return found

    peak_rank, _ = grown(planned)
    path = work / "hashed"
    path.write_bytes(bytes(256 << 20))
    hash_s, _ = timed(lambda: file_sha256(path))
    return {
        "index": {"rows_per_s": table.num_rows / index_s, "bytes_a_row": peak / table.num_rows},
        "rank": {"bytes_a_row": peak_rank / table.num_rows},
        "hash": {"bytes_per_s": path.stat().st_size / hash_s},
    }


def shard_refs(texts: list[str], work: Path) -> dict[str, Any]:
    """What the driver holds of every piece of a shuffle: as ShuffleMapOp keeps them, but empty ones."""
    del texts, work
    import ray
    from ray.data._internal.execution.interfaces import BlockEntry, RefBundle
    from ray.data.block import BlockMetadata

    partitions, maps = 2000, 40
    ray.init(num_cpus=1, include_dashboard=False, object_store_memory=200 << 20, log_to_driver=False)
    try:
        empty = ray.remote(lambda: (None, *[b""] * partitions)).options(num_returns=partitions + 1)
        ray.get(empty.remote())
        held = []

        def collected() -> None:
            for _ in range(maps):
                refs = empty.remote()
                ray.get(refs[0])
                for ref in refs[1:]:
                    metadata = BlockMetadata(num_rows=1, size_bytes=1, exec_stats=None, input_files=None)
                    held.append(RefBundle((BlockEntry(ref=ref, metadata=metadata),), schema=None, owns_blocks=True))

        peak, (seconds, _) = grown(lambda: timed(collected))
    finally:
        ray.shutdown()
    return {"shard_refs": {"bytes_a_ref": peak / len(held), "refs_per_s": len(held) / seconds}}
