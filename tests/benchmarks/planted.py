"""What every step of a corpus finds of what was planted for it, and whether a clean document is lost.

    python tests/benchmarks/planted.py [--documents 30787] [--seed 1]

    real abstracts and web pages --plant (planted_rows.py)--> planted/, a fifth of it plants, and control/, the same without
    both --acclimate run: corpus (exact and near-duplicates, decontamination, personal data), shards (licence gate)--> artifacts
    artifacts, and what each row is --counted (planted_counts.py)--> recall and precision of every step, clean documents that are in no row

The documents are those of `make demo`. What the control sets aside or replaces is the real data's own: those documents are
`natural`, and plants made of them are not measured. All else that is no plant is clean, and lost where it is not learnt, whole.
Recall is that of all plants of a step; `unlike` and `quoted` are plants that have to stay. A row that is set aside, or a
placeholder, counts against precision where it is neither a plant of that step nor natural. The last line is one JSON object.
Wanted: recalls of 1 but for near-copies near the threshold (by their true similarity), precisions of 1, and no clean document
lost.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).parents[2]
sys.path.insert(0, str(CHECKOUT))

from cluster.artifacts import find_named  # noqa: E402 - the checkout is not on a script's path
from cluster.storage import Store  # noqa: E402
from jobs.corpus.schema import read_table  # noqa: E402
from tests.benchmarks.planted_counts import PLACEHOLDER, Corpus, Measured, summary  # noqa: E402
from tests.benchmarks.planted_rows import Document, Ledger, plant, real_documents  # noqa: E402
from tests.world.tiny_model import write_tiny_model  # noqa: E402

ASSETS = CHECKOUT / "artifacts" / "assets"
FILES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=10**9)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--show", action="store_true", help="what was missed, and what the control replaced or set aside"
    )
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    documents = real_documents(ASSETS, arguments.documents, draw)
    with tempfile.TemporaryDirectory(prefix="acclimate-planted-") as directory:
        measured = measure(documents, Path(directory), draw)
    if arguments.show:
        show(measured)
    print(json.dumps({"seed": arguments.seed, **summary(measured)}))


def measure(documents: list[Document], directory: Path, draw: random.Random, files: int = FILES) -> Measured:
    """Plants, runs, and reads what came of it.

    Args:
        files: of every corpus and of the shards.
    """
    ledger = plant(documents, directory, draw)
    store = run(directory, files)
    control = read_corpus(find_named(store, "control").content)
    shards = find_named(store, "rows").content
    refused = {row["uri"]: row["detail"] for row in tables(shards, "quarantine/") if row["reason"] == "not_allowed"}
    learnt = {
        number
        for split in ("train/shard", "heldout/shard")
        for row in tables(shards, split)
        for number in row["document_ids"]
    }
    texts = {document.number: document.text for document in documents}
    planted = read_corpus(find_named(store, "planted").content)
    return Measured(ledger, texts, planted, natural_of(ledger, control), refused, learnt)


def run(directory: Path, files: int) -> Store:
    """The real stages over both corpora, as a user would start them."""
    rows = {"format": "jsonl", "licence": "LicenseRef-NLM", "licence_column": "licence", "confidentiality": "public"}
    pages = {"format": "html", "licence": "ODC-By-1.0", "confidentiality": "public"}
    steps = {"near_duplicates": {}, "decontamination": {"against": ["questions"]}, "pii": {"tier": "patterns"}}

    def corpus(name: str) -> dict[str, Any]:
        return {
            "stage": "corpus", **steps, "heldout_fraction": 0.05, "partitions": files,
            "sources": {"rows": {"path": f"{directory}/{name}/rows", **rows}, "pages": {"path": f"{directory}/{name}/pages", **pages}},
        }  # fmt: skip

    questions = {"path": f"{directory}/questions/rows", **rows}
    stages = {
        "questions": {"stage": "corpus", "sources": {"questions": questions}, "heldout_fraction": 1.0, "partitions": 1},
        "control": corpus("control"),
        "planted": corpus("planted"),
        "base": {"stage": "model", "source": str(write_tiny_model(directory / "model")), "licence": "Apache-2.0"},
        "rows": {
            "stage": "shards", "corpus": "planted", "model": "base", "rows": "text", "shards": files,
            "gate": {"train": ["permissive", "LicenseRef-NLM"]},
        },
    }  # fmt: skip
    config = directory / "planted.yaml"
    store = directory / "store"
    config.write_text(yaml.safe_dump({"name": "planted", "store": str(store), "stages": stages}, sort_keys=False))
    command = [sys.executable, "-m", "jobs.cli", "run", str(config), "--yes"]
    subprocess.run(command, cwd=CHECKOUT, check=True, stdout=sys.stderr)
    return Store(str(store))


def read_corpus(content: Store) -> Corpus:
    found = Corpus()
    for split in ("train/", "heldout/"):
        found.kept |= {row["uri"]: row for row in tables(content, split)}
    found.aside = {row["uri"]: (row["reason"], row["detail"]) for row in tables(content, "quarantine/")}
    return found


def tables(content: Store, prefix: str) -> Iterable[dict[str, Any]]:
    """Rows of an artifact's files."""
    for name, entry in content.read_json("manifest.json")["files"].items():
        if name.startswith(prefix):
            yield from read_table(content, name, entry["sha256"]).to_pylist()


def natural_of(ledger: Ledger, control: Corpus) -> dict[int, str]:
    """By document, why the control set it aside, that another one was for its sake, or that it has personal data of its own.

    Which of two stays may be another one in another order of the rows.
    """
    natural: dict[int, str] = {}
    for uri, row in ledger.control.items():
        assert row.document is not None
        if uri in control.aside:
            reason, like = control.aside[uri]
            natural[row.document] = reason
            if like in ledger.control:
                natural.setdefault(ledger.control[like].document, f"{reason}_of")
        elif PLACEHOLDER.search(control.kept[uri]["text"]):
            natural[row.document] = "personal"
    return natural


def show(measured: Measured) -> None:
    """What is worth reading by somebody; of public texts and made-up values."""
    for uri, row in measured.ledger.planted.items():
        if row.plant is None:
            continue
        became = measured.planted.aside.get(uri) or ("kept", measured.planted.kept[uri]["text"][:200])
        is_left = uri in measured.planted.kept and row.plant.value in measured.planted.kept[uri]["text"]
        value = f" {row.plant.value!r}" if row.plant.value and is_left else ""
        print(row.plant.step, row.plant.variant, f"{row.plant.similarity:.3f}{value}", became, sep=" | ")
    for uri, row in measured.ledger.planted.items():
        text = measured.planted.kept[uri]["text"] if uri in measured.planted.kept else ""
        if row.plant is None and measured.natural.get(row.document) == "personal":
            for found in PLACEHOLDER.finditer(text):
                print("natural", repr(text[max(0, found.start() - 60) : found.end() + 30]), sep=" | ")


if __name__ == "__main__":
    main()
