"""What is counted of a planted corpus: recall and precision of every step, and clean documents that are in no row."""

import functools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.benchmarks.planted_rows import Ledger, Row, words_of
from tests.benchmarks.planted_values import VALUES

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


STEPS = {
    "exact": exact, "near": near, "contaminated": contaminated, "personal": personal, "bad": bad, "licence": licence,
}  # fmt: skip
