"""Steps that take one text after the other, measured on one core: for tests/benchmarks/corpus_speed.py.

files --read--> documents --refined--> clean ones --rows--> rows of a table, cut and packed for the shuffle
"""

from pathlib import Path
from typing import Any

import pyarrow as pa

from configs.schema.corpus import CorpusStage, Source
from configs.schema.pii import Pii
from jobs.corpus.raw import Raw
from jobs.corpus.readers import read_file
from jobs.corpus.refine import Refined, redacted, refine
from jobs.corpus.unpack import unpacked
from tests.benchmarks.corpus_files import file_of_each_kind
from tests.benchmarks.corpus_measuring import SOURCE, candidates_of, corpus_stage, size_of, timed, timed_with_children

SALT = bytes(16)
TURNS = 2
"""Of reading, the faster of which counts: the first one also imports what reads."""
SLOW_TEXTS = 300
"""For what reads some hundred kilobytes a second."""


def read(texts: list[str], work: Path) -> dict[str, Any]:
    """Files of every kind -> documents. `text_share`: bytes of text for one of the (unpacked) file."""
    found = {}
    kinds = file_of_each_kind(texts, work)
    for kind, files in kinds.items():
        source = Source(**SOURCE, format="text_rows" if kind in ("csv", "parquet") else "auto")

        def read_all(files=files, source=source) -> list[Raw]:
            found = (row for path in files.paths for row in read_file(str(path), path.name, source))
            return [row for row in found if isinstance(row, Raw)]

        turns = [timed(read_all) if kind != "pdf" else timed_with_children(read_all) for _ in range(TURNS)]
        seconds, rows = min(turns, key=lambda turn: turn[0])
        text = size_of([row.text for row in rows])
        found[kind] = {"bytes_per_s": files.unpacked / seconds, "text_share": text / files.unpacked}
        if kind == "pdf":  # what else is in one decides its bytes
            found[kind] = {"documents_per_s": len(rows) / seconds, "text_bytes_a_document": text / len(rows)}
    for packing in ("gz", "zst"):
        packed = kinds[f"jsonl.{packing}"]
        seconds = min(timed(lambda path=packed.paths[0]: _unpack(path))[0] for _ in range(TURNS))
        ratio = packed.unpacked / packed.paths[0].stat().st_size
        found[packing] = {"bytes_per_s": packed.unpacked / seconds, "ratio": ratio}
    return found


def _unpack(path: Path) -> None:
    with path.open("rb") as file, unpacked(file, path.name) as content:
        while content.read(1 << 20):
            pass


def refined(texts: list[str], work: Path) -> dict[str, Any]:
    """Layout, repair, quality, personal data, each beside what it costs without."""
    del work
    raws = [Raw(f"d#{number}", text, None) for number, text in enumerate(texts)]
    total = size_of(texts)

    def through(stage: CorpusStage, rows: list[Raw]) -> float:
        return timed(lambda: [refine(row, stage, "s") for row in rows])[0]

    clean = through(corpus_stage(), raws)
    found: dict[str, Any] = {"clean": {"bytes_per_s": total / clean}}
    for name, stage in (
        ("layout_paper", corpus_stage("paper")), ("layout_web", corpus_stage("web")),
        ("quality", corpus_stage(quality={"presets": ["gopher", "fineweb"]})),
        ("language", corpus_stage(quality={"languages": ["en"]})),
    ):  # fmt: skip
        some = raws[:: 8 if name != "layout_web" else 1]
        base = through(corpus_stage(), some)
        found[name] = {"bytes_per_s": size_of([row.text for row in some]) / (through(stage, some) - base)}
    for tier in ("patterns", "presidio"):
        some = raws if tier == "patterns" else raws[:: len(raws) // SLOW_TEXTS]
        rows = [Refined(row, {}) for row in some]
        redacted(rows[:10], Pii(tier=tier), SALT)  # what is loaded once is not counted
        seconds, _ = timed(lambda rows=rows, tier=tier: redacted(rows, Pii(tier=tier), SALT))
        found[f"pii_{tier}"] = {"bytes_per_s": size_of([row.text for row in some]) / seconds}
    return found


def rows(texts: list[str], work: Path) -> dict[str, Any]:
    """Documents -> rows of a table, and Ray Data's shuffle of them; `shuffle` is of bytes of rows."""
    del work
    from ray.data._internal.arrow_ops.transform_pyarrow import hash_partition
    from ray.data._internal.execution.operators.shuffle_operators.shuffle_tasks import (
        _encode_partition_ipc,
        _ipc_write_options,
        _read_partition_ipc,
    )

    seconds, table = timed(lambda: candidates_of(texts, 64))
    total = size_of(texts)

    def packed() -> list[pa.Buffer]:
        shards = hash_partition(table, hash_cols=["partition"], num_partitions=64)
        return [_encode_partition_ipc(shard, _ipc_write_options("zstd")) for shard in shards.values()]

    map_s, shards = timed(packed)
    reduce_s, _ = timed(lambda: pa.concat_tables([_read_partition_ipc(shard) for shard in shards]).combine_chunks())
    return {
        "table": {"bytes_per_s": total / seconds, "row_bytes_beside_text": (table.nbytes - total) / len(texts)},
        "shuffle_map": {"bytes_per_s": table.nbytes / map_s, "packed_share": sum(map(len, shards)) / table.nbytes},
        "shuffle_reduce": {"bytes_per_s": table.nbytes / reduce_s},
    }
