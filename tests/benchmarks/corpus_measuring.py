"""CPU time and memory of a piece of corpus preparation, and what it is measured on: for tests/benchmarks/corpus_speed.py."""

import ctypes
import gc
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from configs.schema.corpus import CorpusStage
from jobs.corpus.candidates import CANDIDATE_SCHEMA, candidate
from jobs.corpus.raw import Raw
from jobs.corpus.refine import Refined

SOURCE = {"path": "none", "licence": "MIT"}


def corpus_stage(layout: str = "none", **settings: Any) -> CorpusStage:
    return CorpusStage(stage="corpus", sources={"s": {**SOURCE, "layout": {"document": layout}}}, **settings)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of CPU time, of all threads."""
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def grown(work: Callable[[], Any]) -> tuple[int, Any]:
    """Bytes by which the resident set grows at most; what allocators keep of earlier work is given back before."""
    gc.collect()
    pa.default_memory_pool().release_unused()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    result = work()
    return _resident("VmHWM") - before, result


def _resident(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def size_of(texts: list[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def timed_with_children(work: Callable[[], Any]) -> tuple[float, Any]:
    def children() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = children()
    seconds, result = timed(work)
    return seconds + children() - before, result


def candidates_of(texts: list[str], partitions: int = 1) -> pa.Table:
    columns = {
        "source": "s",
        "precedence": 0,
        "licence": "MIT",
        "confidentiality": "internal",
        "file": "a/part-0.jsonl",
    }
    rows = [
        {**columns, **candidate(Refined(Raw(f"a/part-0.jsonl#{n}", text, None), {}), partitions)} for n, text in enumerate(texts)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=CANDIDATE_SCHEMA)
