"""A finished corpus of several sources, and shards of it, by the pipeline itself but with all partitions in this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.compute as pc
import yaml

import jobs.corpus.collect
import jobs.corpus.shard_documents
from cluster.storage import Store
from configs.loader import load_run
from jobs.pipeline import Watch, execute, plan_run
from tests.world.toy_run import ToyRun

SCRIPT = '<script>alert("x")</script><img src=http://example.org/x>'
SECRET = "Zanzibar"
"""Stands in every text of the restricted source, and nowhere else."""
ENGLISH = "The cells of the tissue have to divide, and they do that with sugar and oxygen from the blood. "
GERMAN = "Die Zellen des Gewebes teilen sich, und dafür brauchen sie Zucker und Sauerstoff aus dem Blut. "


def _rows() -> dict[str, list[Any]]:
    """80 English documents (a script in each third), 40 German and 20 restricted ones; and what is set aside of them."""
    papers = [{"text": ENGLISH * (n % 7 + 1) + f"Case {n}. {SCRIPT if n % 3 == 0 else ''}"} for n in range(80)]
    notes = [{"text": GERMAN * (n % 3 + 1) + f"Fall {n}. Schreibt an fall{n}@example.com."} for n in range(40)]
    secret = [{"text": f"{SECRET} is where the patients of case {n} live. " + ENGLISH} for n in range(20)]
    return {
        "papers": [*papers, papers[0], papers[1], {"text": "short " + SCRIPT}, {"text": 7}],
        "notes": notes,
        "secret": [*secret, secret[0], {"text": f"{SECRET} is short"}],
    }


def write_corpus_run(directory: Path, model: Path, store: str) -> ToyRun:
    """Stages `base`, `corpus` and `texts` (shards)."""
    directory.mkdir(parents=True, exist_ok=True)
    sources: dict[str, dict[str, Any]] = {}
    of_source = {
        "papers": ("CC-BY-4.0", "public"),
        "notes": ("CC0-1.0", "internal"),
        "secret": ("LicenseRef-Own", "restricted"),
    }
    for name, rows in _rows().items():
        path = directory / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        licence, confidentiality = of_source[name]
        sources[name] = {"path": str(path), "format": "jsonl", "licence": licence, "confidentiality": confidentiality}
    stages = {
        "base": {"stage": "model", "source": str(model), "licence": "Apache-2.0"},
        "corpus": {
            "stage": "corpus", "sources": sources, "cleaning": {"minimum_characters": 80}, "heldout_fraction": 0.2,
            "partitions": 3, "pii": {"tier": "patterns"},
        },
        "texts": {
            "stage": "shards", "corpus": "corpus", "model": "base", "rows": "text", "context": 64, "shards": 4,
            "gate": {"train": ["permissive", "LicenseRef-Own"], "confidentiality": {"train": "restricted", "serve": "restricted"}},
        },
    }  # fmt: skip
    config = directory / "corpus.yaml"
    config.write_text(yaml.safe_dump({"name": "carded", "store": store, "stages": stages}, sort_keys=False))
    return ToyRun(config, Store(store))


def make_here(run: ToyRun) -> None:
    """Computes all stages of a run whose corpora need no Ray: no near-duplicates, no decontamination."""
    loaded = load_run(str(run.config))
    watch = Watch(*[lambda *_: None] * 7, stop_asked=lambda: False)
    with (
        patch.object(jobs.corpus.collect, "run_partitions", partitions_here),
        patch.object(jobs.corpus.shard_documents, "run_partitions", partitions_here),
        patch.object(jobs.corpus.shard_documents, "run_each", each_here),
    ):
        execute(loaded, run.store, plan_run(loaded.run, run.store), watch)


def partitions_here(
    units: list[Any], read: Callable, write: Callable, partitions: int, label: str, progress: Callable
) -> list[Any]:
    """jobs.corpus.partitions.run_partitions without Ray."""
    del label, progress
    rows = pa.concat_tables([table for unit in units for table in read(unit)])
    reports = []
    for partition in range(partitions):
        of_partition = rows.filter(pc.field("partition") == partition)
        if of_partition.num_rows:
            reports.append(json.loads(json.dumps(write(partition, of_partition))))
    return reports


def each_here(units: list[Any], work: Callable, label: str, progress: Callable) -> list[Any]:
    """jobs.corpus.partitions.run_each without Ray."""
    del label, progress
    return [json.loads(json.dumps(work(json.loads(json.dumps(unit))))) for unit in units]
