"""Licence and confidentiality of documents -> what may be done with them, and with what is made of them.

    document --decide--> Decision (train? serve? publish? why not?) --aside--> quarantine of the shards
    decisions of what is left --sealed--> manifest.json `gate` --require_purpose--> training | serving

The decision is made once, where rows are made, and travels with them. Its seal covers the digests of the files, so that a
decision does not pass for another one's rows, and rows without one cannot be trained on.
"""

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa

from configs.schema.gate import CONFIDENTIALITIES, PERMISSIVE_LICENCES, PURPOSES, Confidentiality, Gate, Purpose
from configs.schema.licences import missing_licence
from jobs.corpus.schema import DataError


@dataclass(frozen=True)
class Decision:
    """What one kind of document may be used for.

    Example:
        Decision("CC-BY-SA-3.0", "public", allowed=(), refused={"train": "CC-BY-SA-3.0 is not in gate.train", ...})
    """

    licence: str
    confidentiality: Confidentiality
    allowed: tuple[Purpose, ...]
    refused: dict[Purpose, str]
    """Why not, by purpose."""


def decide(gate: Gate, licence: str, confidentiality: Confidentiality) -> Decision:
    """Of a document's SPDX expression and confidentiality."""
    refused: dict[Purpose, str] = {}
    for purpose in PURPOSES:
        missing = missing_licence(licence, gate.licences(purpose))
        most = getattr(gate.confidentiality, purpose)
        if missing:
            refused[purpose] = f"{missing} is not in gate.{purpose}"
        elif CONFIDENTIALITIES.index(confidentiality) > CONFIDENTIALITIES.index(most):
            refused[purpose] = f"{confidentiality} documents are beyond gate.confidentiality.{purpose} ({most})"
    return Decision(licence, confidentiality, tuple(p for p in PURPOSES if p not in refused), refused)


def reasons_against(gate: Gate, documents: pa.Table) -> list[str | None]:
    """Why each document is set aside, or None; from its columns `licence` and `confidentiality`."""
    kinds = list(zip(documents["licence"].to_pylist(), documents["confidentiality"].to_pylist(), strict=True))
    known = {kind: reason_against(gate, *kind) for kind in set(kinds)}
    return [known[kind] for kind in kinds]


@functools.cache
def freedom(licence: str, confidentiality: Confidentiality) -> int:
    """0 for what may be used most freely. Of documents that are alike the freest stays, whatever gate follows.

    What is restricted comes last, as no gate lets it through by itself; then permissive licences (PERMISSIVE_LICENCES) are
    before others, and what is public before what is internal.
    """
    is_permissive = missing_licence(licence, PERMISSIVE_LICENCES) is None
    return 4 * (confidentiality == "restricted") + 2 * (not is_permissive) + (confidentiality != "public")


def reason_against(gate: Gate, licence: str, confidentiality: Confidentiality) -> str | None:
    """Why a document is set aside, or None."""
    refused = decide(gate, licence, confidentiality).refused
    return next((f"{purpose}: {refused[purpose]}" for purpose in gate.purposes if purpose in refused), None)


def terms_of(documents: pa.Table) -> Counter[str]:
    """How many documents have which terms, as `CONFIDENTIALITY LICENCE`: {"public MIT OR Apache-2.0": 12}."""
    return Counter(
        map(" ".join, zip(documents["confidentiality"].to_pylist(), documents["licence"].to_pylist(), strict=True))
    )


def sealed(gate: Gate, terms: Mapping[str, int], files: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest's `gate`.

    Args:
        terms: of the documents that rows are made of (`terms_of`).
        files: of the manifest, with their sha256.
    """
    kinds = {kind: cast(tuple[Confidentiality, str], tuple(kind.split(" ", 1))) for kind in sorted(terms)}
    decisions = {kind: decide(gate, licence, confidentiality) for kind, (confidentiality, licence) in kinds.items()}
    record = {
        "purposes": list(gate.purposes),
        "allowed": [p for p in PURPOSES if gate.purposes and all(p in decision.allowed for decision in decisions.values())],
        "decisions": [
            {
                "licence": decision.licence, "confidentiality": decision.confidentiality,
                "documents": terms[kind],
                "allowed": list(decision.allowed), "refused": {**decision.refused},
            }
            for kind, decision in decisions.items()
        ],
    }  # fmt: skip
    return {**record, "seal": _seal(record, files)}


def sealed_together(manifests: Mapping[str, Mapping[str, Any]], files: Mapping[str, Any]) -> dict[str, Any]:
    """The `gate` of what is made of several shards: allowed is what all of them allow.

    Args:
        manifests: by the names of the shards.
        files: of the new manifest.

    Raises DataError as `require_purpose`.
    """
    gates = [_checked(name, manifest) for name, manifest in manifests.items()]
    decisions: dict[tuple[str, str], dict[str, Any]] = {}
    for decision in (decision for gate in gates for decision in gate["decisions"]):
        kind = (decision["confidentiality"], decision["licence"])
        known = decisions.setdefault(kind, {**decision, "documents": 0})
        refused = {**known["refused"], **decision["refused"]}
        allowed = [purpose for purpose in known["allowed"] if purpose not in refused]
        documents = known["documents"] + decision["documents"]
        decisions[kind] = {**known, "documents": documents, "allowed": allowed, "refused": refused}
    record = {
        "purposes": [purpose for purpose in PURPOSES if all(purpose in gate["purposes"] for gate in gates)],
        "allowed": allowed_of(gates),
        "decisions": [decisions[kind] for kind in sorted(decisions)],
    }
    return {**record, "seal": _seal(record, files)}


def require_purpose(name: str, manifest: Mapping[str, Any], purpose: Purpose) -> None:
    """Raises DataError where shards have no decision, one of other files, or one that says no.

    Args:
        name: of the shards artifact.
    """
    gate = _checked(name, manifest)
    if purpose in gate["allowed"]:
        return
    why = {one["refused"].get(purpose) for one in gate["decisions"]} - {None}
    told = "; ".join(sorted(map(str, why))) or f"its `gate.purposes` are {gate['purposes']}"
    raise DataError(f"{name} may not be used to {purpose}: {told}")


def _checked(name: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The decision of a manifest, if there is one and it is that of its files. Raises DataError."""
    gate = manifest.get("gate")
    if not isinstance(gate, dict) or not isinstance(gate.get("seal"), str):
        raise DataError(
            f"{name} has no decision on what its documents may be used for, so nothing may be trained on it; make the shards "
            "again (`gate` of the shards stage)"
        )
    record = {key: value for key, value in gate.items() if key != "seal"}
    if gate["seal"] != _seal(record, manifest["files"]):
        raise DataError(
            f"the decision in {name}'s manifest is not that of its files: one of the two was changed; make the shards again"
        )
    return gate


def allowed_of(records: Iterable[Mapping[str, Any]]) -> list[Purpose]:
    """What may be done with what is made of artifacts with these records; models from outside forbid nothing."""
    forbidden = {
        purpose for record in records for purpose in PURPOSES if purpose not in record.get("allowed", PURPOSES)
    }
    return [purpose for purpose in PURPOSES if purpose not in forbidden]


def _seal(record: Mapping[str, Any], files: Mapping[str, Any]) -> str:
    digests = {name: entry["sha256"] for name, entry in files.items()}
    return hashlib.sha256(json.dumps([record, digests], sort_keys=True).encode()).hexdigest()
