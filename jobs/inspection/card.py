"""A finished corpus, or shards and the corpus behind them, as a data card: what is in it, what was taken out, what it looks like.

    record, manifest.json ───────────────────────────────────┐
    some documents, set-aside rows, clusters (card_samples.py) ──► DataCard ──► JSON, or one HTML page (card_page.py)

What the manifest counts is exact and costs nothing. What only the documents tell (lengths, languages, samples) is measured on a
seeded sample whose size does not grow with the corpus, and the card says of how many it is.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from cluster.artifacts import Artifact, ArtifactNotFound, find_artifact
from cluster.storage import Store
from jobs.corpus.schema import DataError
from jobs.inspection.card_records import (
    CorpusCard,
    DataCard,
    DuplicateCard,
    InputFile,
    NearDuplicateCard,
    PersonalCard,
    ShardsCard,
    SourceCard,
    SplitCard,
)
from jobs.inspection.card_samples import (
    RESTRICTED,
    SourceSample,
    cluster_sizes,
    documents_look,
    quarantine_look,
    token_lengths,
)
from jobs.inspection.mix_card import MixCard, mix_card

KINDS = ("corpus", "shards", "mix")
INPUTS_NAMED = 5
"""Of every source; the manifest has them all."""


def data_card(store: Store, artifact: Artifact, documents: int, seed: int) -> DataCard | MixCard:
    """The card of an artifact of KINDS.

    Args:
        documents: how many are sampled, at most.

    Raises:
        DataError: files are missing or damaged, or of an earlier version.
        ArtifactNotFound: the corpus of the shards is gone.
    """
    if artifact.kind == "mix":
        return mix_card(artifact, _about(artifact))
    if artifact.kind == "corpus":
        return DataCard(_corpus(artifact, documents, seed), None)
    assert artifact.kind == "shards", artifact.kind
    directory = artifact.record["parents"]["corpus"]
    corpus = find_artifact(store, "corpus", directory.rpartition("-")[2])
    if corpus is None:
        raise ArtifactNotFound(f"{store.root}: {directory}, the corpus of {artifact.name}, is gone")
    restricted = _withheld(_sources(corpus))
    return DataCard(_corpus(corpus, documents, seed), _shards(artifact, restricted, seed))


def _corpus(artifact: Artifact, documents: int, seed: int) -> CorpusCard:
    manifest = _manifest(artifact, "canary_recall")
    settings = _sources(artifact)
    withheld = _withheld(settings)
    look = documents_look(artifact.content, manifest["files"], documents, withheld, seed)
    confidentiality: Counter[str] = Counter()
    counts = manifest["documents_by_source"]
    for source, count in counts.items():
        confidentiality[settings[source]["confidentiality"]] += count
    names = sorted(settings, key=lambda name: (-counts.get(name, 0), name))
    inputs = defaultdict(list)
    for file in manifest["inputs"]:
        inputs[file["source"]].append(file)
    return CorpusCard(
        **_about(artifact),
        documents=manifest["train"] + manifest["heldout"], train=manifest["train"], heldout=manifest["heldout"],
        conversations=manifest["conversations"], preferences=manifest["preferences"], thumbs=manifest["thumbs"],
        characters=manifest["characters"],
        sources=[_source(name, settings[name], manifest, inputs[name], look.sources.get(name)) for name in names],
        documents_by_licence=manifest["documents_by_licence"],
        documents_by_confidentiality=dict(sorted(confidentiality.items())),
        documents_by_encoding=manifest["documents_by_encoding"],
        lengths=look.lengths, duplicates=_duplicates(artifact, manifest),
        personal=PersonalCard(artifact.record["settings"]["pii"]["tier"], manifest["personal"], manifest["canary_recall"]),
        stripped=manifest["stripped"],
        quarantined=quarantine_look(artifact.content, manifest, withheld, seed),
        samples=look.samples, withheld=withheld, sampled=look.sampled, seed=seed,
        parents=artifact.record["parents"], settings=artifact.record["settings"],
    )  # fmt: skip


def _source(
    name: str,
    settings: Mapping[str, Any],
    manifest: Mapping[str, Any],
    files: Sequence[Mapping[str, Any]],
    sample: SourceSample | None,
) -> SourceCard:
    """Of a restricted source not even the names of files: they may be names of people."""
    documents = manifest["documents_by_source"].get(name, 0)
    named = [] if settings["confidentiality"] == RESTRICTED else files[:INPUTS_NAMED]
    return SourceCard(
        source=name,
        licence=settings["licence"],
        confidentiality=settings["confidentiality"],
        documents=documents,
        share=documents / max(manifest["train"] + manifest["heldout"], 1),
        formats=manifest["documents_by_format"].get(name, {}),
        files=len(files),
        bytes=sum(file["size"] for file in files),
        inputs=[InputFile(file["uri"], file["size"], file["fingerprint"]) for file in named],
        sample=sample or SourceSample.of([], []),
    )


def _duplicates(artifact: Artifact, manifest: Mapping[str, Any]) -> DuplicateCard:
    settings, aside = artifact.record["settings"], manifest["quarantined"]
    found = manifest.get("near_duplicates")
    return DuplicateCard(
        exact=aside.get("duplicate", 0),
        near=None if found is None else aside.get("near_duplicate", 0),
        contaminated=None if settings["decontamination"] is None else aside.get("contaminated", 0),
        comparison=None
        if found is None
        else NearDuplicateCard(
            found["compared"],
            found["alike"],
            found["clusters"],
            found["largest"],
            cluster_sizes(artifact.content, manifest["files"]),
        ),
    )


def _shards(artifact: Artifact, restricted: list[str], seed: int) -> ShardsCard:
    manifest = _manifest(artifact, "shards")
    return ShardsCard(
        **_about(artifact),
        rows=manifest["rows"], context=manifest["context"], shards=manifest["shards"],
        train=_split(manifest["train"]), heldout=_split(manifest["heldout"]),
        truncated=manifest["truncated"], lost_tokens=manifest["lost_tokens"], lone_tokens=manifest["lone_tokens"],
        left_out=manifest["left_out"], quarantined=quarantine_look(artifact.content, manifest, restricted, seed),
        lengths=token_lengths(artifact.content, manifest["files"], seed),
        model=artifact.record["parents"]["model"], tokenizer_sha256=manifest["tokenizer_sha256"],
        template_sha256=manifest["template_sha256"], settings=artifact.record["settings"],
    )  # fmt: skip


def _split(counts: Mapping[str, Any]) -> SplitCard:
    return SplitCard(**{field.name: counts[field.name] for field in fields(SplitCard)})


def _about(artifact: Artifact) -> dict[str, Any]:
    finished = datetime.fromtimestamp(artifact.record["finished_at"], UTC)
    return {
        "name": artifact.name, "key": artifact.key, "directory": artifact.content.root,
        "finished_at": finished.isoformat(timespec="seconds"),
    }  # fmt: skip


def _manifest(artifact: Artifact, newest: str) -> dict[str, Any]:
    """Raises DataError where it lacks what the present version writes last."""
    manifest = artifact.content.read_json("manifest.json")
    if newest not in manifest:
        raise DataError(
            f"{artifact.kind}-{artifact.key} ({artifact.name}) was made by an earlier version, whose manifest.json has no "
            f"`{newest}`; run its config again"
        )
    return manifest


def _sources(artifact: Artifact) -> dict[str, dict[str, Any]]:
    return artifact.record["settings"]["sources"]


def _withheld(sources: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return sorted(name for name, settings in sources.items() if settings["confidentiality"] == RESTRICTED)
