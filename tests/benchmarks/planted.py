"""What every step of a corpus finds of what was planted for it, and whether a clean document is lost.

    python tests/benchmarks/planted.py [--documents 30787] [--seed 1]

    real abstracts and web pages --plant (planted_rows.py)--> planted/, a fifth of it plants, and control/, the same without
    both --acclimate run: corpus (exact and near-duplicates, decontamination, personal data), shards (licence gate)--> artifacts
    artifacts, and what each row is --counted--> recall and precision of every step, clean documents that are in no row

The documents are those of `make demo`. What the control sets aside or replaces is the real data's own: those documents are
`natural`, and plants made of them are not measured. All else that is no plant is clean, and lost where it is not learnt, whole.
Recall is that of all plants of a step; `unlike` and `quoted` are plants that have to stay. A row that is set aside, or a
placeholder, counts against precision where it is neither a plant of that step nor natural. The last line is one JSON object.
Wanted: recalls of 1 but for near-copies near the threshold (by their true similarity), precisions of 1, and no clean document
lost.
"""

import argparse
import functools
import json
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).parents[2]
sys.path.insert(0, str(CHECKOUT))

from cluster.artifacts import find_named  # noqa: E402 - the checkout is not on a script's path
from cluster.storage import Store  # noqa: E402
from jobs.corpus.schema import read_table  # noqa: E402
from tests.benchmarks.planted_rows import Document, Ledger, Row, plant, real_documents, words_of  # noqa: E402
from tests.benchmarks.planted_values import VALUES  # noqa: E402
from tests.world.tiny_model import write_tiny_model  # noqa: E402

ASSETS = CHECKOUT / "artifacts" / "assets"
FILES = 8
READING = "bad"
REASONS = {"duplicate": "exact", "near_duplicate": "near", "contaminated": "contaminated", "not_allowed": "licence"}
"""The step that a reason is of; every other reason is that of a row that cannot be read."""
PLACEHOLDER = re.compile(r"\[(" + "|".join(kind.upper() for kind in VALUES) + r")\]")
BUCKETS = (0.0, 0.3, 0.5, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)


@dataclass
class Corpus:
    """What became of the rows of one corpus artifact, by uri."""

    kept: dict[str, dict[str, Any]] = field(default_factory=dict)
    """`text` and `document_id`."""
    aside: dict[str, tuple[str, str]] = field(default_factory=dict)
    """(reason, detail)"""


@dataclass(frozen=True)
class Measured:
    """Everything that is counted from."""

    ledger: Ledger
    texts: dict[int, str]
    """Of the documents, by number."""
    planted: Corpus
    natural: dict[int, str]
    """Documents that the control did not keep as they are, with the reason or `personal`."""
    refused: dict[str, str]
    """Uris that the gate set aside, with the detail."""
    learnt: set[int]
    """Ids of the documents in the rows."""

    def plants(self, *steps: str) -> dict[str, Row]:
        """Those that can be measured: not made of a document which is natural."""
        return {
            uri: row
            for uri, row in self.ledger.planted.items()
            if row.plant is not None and row.plant.step in steps and row.document not in self.natural
        }

    @functools.cached_property
    def originals(self) -> dict[int | None, str]:
        """Uris of the documents that are there as themselves, by number."""
        return {row.document: uri for uri, row in self.ledger.planted.items() if row.plant is None}


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


def summary(measured: Measured) -> dict[str, Any]:
    rows = measured.ledger.planted.values()
    plants = [row for row in rows if row.plant is not None]
    return {
        "rows": len(rows),
        "planted": len(plants),
        "unmeasured": len(plants) - len(measured.plants(*{row.plant.step for row in plants if row.plant})),
        "natural": dict(sorted(Counter(measured.natural.values()).items())),
        **{step: count(measured) for step, count in STEPS.items()},
        "clean": clean(measured),
    }


def exact(measured: Measured) -> dict[str, Any]:
    found = {uri: is_one_of_two(measured, uri, row) for uri, row in measured.plants("exact").items()}
    wrong = wrongly_aside(measured, "exact", ("exact",))
    return {"plants": len(found), "recall": share(found.values()), "precision": precision(found.values(), wrong)}


def near(measured: Measured) -> dict[str, Any]:
    found = {uri: is_one_of_two(measured, uri, row) for uri, row in measured.plants("near").items()}
    unlike = [uri in measured.planted.kept for uri in measured.plants("unlike")]
    wrong = wrongly_aside(measured, "near", ("exact", "near"))
    return {
        "plants": len(found), "recall": share(found.values()), "recall_by_similarity": by_similarity(measured, found),
        "precision": precision(found.values(), wrong), "unlike": len(unlike), "unlike_kept": share(unlike),
    }  # fmt: skip


def contaminated(measured: Measured) -> dict[str, Any]:
    plants = measured.plants("contaminated", "quoted")
    # What is asked of the step is decided by what a text holds, not by what it was made for.
    held = {
        uri: reason_of(measured, uri) == "contaminated" for uri, row in plants.items() if row.plant.similarity >= 0.3
    }
    kept = [uri in measured.planted.kept for uri, row in plants.items() if row.plant.similarity < 0.3]
    wrong = wrongly_aside(measured, "contaminated", ("contaminated",))
    return {
        "plants": len(held), "recall": share(held.values()), "recall_by_overlap": by_similarity(measured, held),
        "precision": precision(held.values(), wrong), "quoted": len(kept), "quoted_kept": share(kept),
    }  # fmt: skip


def personal(measured: Measured) -> dict[str, Any]:
    """A value is found where nothing is left of it and its kind's placeholder stands in the text."""
    by_kind: dict[str, list[bool]] = defaultdict(list)
    for uri, row in measured.plants("personal").items():
        text = measured.planted.kept[uri]["text"] if uri in measured.planted.kept else row.plant.value
        by_kind[row.plant.variant].append(row.plant.value not in text and f"[{row.plant.variant.upper()}]" in text)
    found = [was for kind in by_kind.values() for was in kind]
    others = sum(
        len(PLACEHOLDER.findall(measured.planted.kept[uri]["text"]))
        for uri, row in measured.ledger.planted.items()
        if uri in measured.planted.kept
        and row.document not in measured.natural
        and (row.plant is None or row.plant.step != "personal")
    )
    natural = sum(reason == "personal" for reason in measured.natural.values())
    return {
        "plants": len(found), "recall": share(found), "recall_by_kind": {kind: share(by_kind[kind]) for kind in sorted(by_kind)},
        "precision": precision(found, others), "precision_if_all_natural_were_wrong": precision(found, others + natural),
    }  # fmt: skip


def bad(measured: Measured) -> dict[str, Any]:
    found = {uri: reason_of(measured, uri) in row.plant.reasons for uri, row in measured.plants("bad").items()}
    wrong = wrongly_aside(measured, "bad", ("bad",))
    return {"plants": len(found), "recall": share(found.values()), "precision": precision(found.values(), wrong)}


def licence(measured: Measured) -> dict[str, Any]:
    found = {uri: uri in measured.refused for uri in measured.plants("licence")}
    ids = {measured.planted.kept[uri]["document_id"] for uri in found if uri in measured.planted.kept}
    wrong = sum(not is_forbidden(measured.ledger.planted[uri]) for uri in measured.refused)
    return {
        "plants": len(found), "recall": share(found.values()), "precision": precision(found.values(), wrong),
        "learnt_anyway": len(ids & measured.learnt),
    }  # fmt: skip


def is_forbidden(row: Row) -> bool:
    return row.plant is not None and row.plant.step == "licence"


def clean(measured: Measured) -> dict[str, Any]:
    """Of documents that are natural in nothing: those of which neither they nor their copy is learnt, and those with other words."""
    lost, changed, pages = [], [], 0
    copies = {row.document: uri for uri, row in measured.plants("exact", "near").items()}
    for uri, row in clean_rows(measured).items():
        standing = next((each for each in (uri, copies.get(row.document, "")) if is_learnt(measured, each)), None)
        if standing is None:
            lost.append(uri)
        elif standing == uri and words_of(measured.planted.kept[uri]["text"]) != words_of(measured.texts[row.document]):
            changed.append(uri)
        pages += row.is_page
    return {"documents": len(clean_rows(measured)), "lost": len(lost), "changed": len(changed), "pages": pages}


def clean_rows(measured: Measured) -> dict[str, Row]:
    return {
        uri: row
        for uri, row in measured.ledger.planted.items()
        if row.plant is None and row.document not in measured.natural
    }


def is_learnt(measured: Measured, uri: str) -> bool:
    return uri in measured.planted.kept and measured.planted.kept[uri]["document_id"] in measured.learnt


def reason_of(measured: Measured, uri: str) -> str:
    return measured.planted.aside.get(uri, ("", ""))[0]


def is_one_of_two(measured: Measured, uri: str, row: Row) -> bool:
    """Whether a copy or its original is set aside as like the other, and the other stays."""
    pair = (uri, measured.originals[row.document])
    return any(
        one in measured.planted.aside and measured.planted.aside[one][1] == other and other in measured.planted.kept
        and step_of(measured.planted.aside[one][0]) in ("exact", "near")
        for one, other in (pair, pair[::-1])
    )  # fmt: skip


def step_of(reason: str) -> str:
    return REASONS.get(reason, READING)


def wrongly_aside(measured: Measured, step: str, plants: tuple[str, ...]) -> int:
    """Rows that a step set aside, and that are neither natural nor plants of these steps nor what those are copies of."""
    copied = {row.document for row in measured.plants("exact", "near").values()} if step in ("exact", "near") else set()
    return sum(
        step_of(reason) == step
        and row.document not in measured.natural
        and not (row.plant is not None and row.plant.step in plants)
        and not (row.plant is None and row.document in copied)
        for uri, (reason, _) in measured.planted.aside.items()
        for row in (measured.ledger.planted[uri],)
    )


def by_similarity(measured: Measured, found: dict[str, bool]) -> dict[str, list[float]]:
    """Recall and number of plants by true similarity."""
    buckets: dict[str, list[bool]] = defaultdict(list)
    for uri, was in found.items():
        similarity = measured.ledger.planted[uri].plant.similarity
        low = max(edge for edge in BUCKETS[:-1] if edge <= similarity)
        buckets[f"{low:g}-{BUCKETS[BUCKETS.index(low) + 1]:g}"].append(was)
    return {name: [share(buckets[name]), len(buckets[name])] for name in sorted(buckets)}


def share(values: Iterable[bool]) -> float:
    values = list(values)
    return round(sum(values) / len(values), 4) if values else 1.0


def precision(found: Iterable[bool], wrong: int) -> float:
    right = sum(found)
    return round(right / (right + wrong), 4) if right + wrong else 1.0


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


STEPS = {
    "exact": exact, "near": near, "contaminated": contaminated, "personal": personal, "bad": bad, "licence": licence,
}  # fmt: skip

if __name__ == "__main__":
    main()
