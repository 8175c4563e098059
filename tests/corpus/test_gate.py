"""What may be learnt from: licences and confidentiality against allow-lists, in words and in a run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from pydantic import ValidationError

from cluster.artifacts import ArtifactNotFound, artifact_around, attempt, find_named
from cluster.storage import Store
from configs.schema.gate import Confidentiality, Gate, Purpose
from jobs.corpus.gate import allowed_of, decide, freedom, reasons_against, require_purpose, sealed, sealed_together
from jobs.corpus.schema import DataError, read_table
from jobs.merging import Part
from tests.world.command import acclimate, require_refused
from tests.world.toy_corpus import make_here
from tests.world.toy_run import ToyRun, write_toy_documents, write_toy_run

FILES = {"train/shard-00000.parquet": {"sha256": "ab", "size": 3}}


@pytest.mark.parametrize(
    ("licence", "named", "missing"),
    [
        ("MIT", ["permissive"], None),
        ("LicenseRef-NLM", ["permissive"], "LicenseRef-NLM"),
        ("LicenseRef-NLM", ["permissive", "LicenseRef-NLM"], None),
        ("MIT", ["LicenseRef-NLM"], "MIT"),
        ("GPL-3.0-only OR MIT", ["permissive"], None),
        ("GPL-3.0-only OR CC-BY-SA-4.0", ["permissive"], "GPL-3.0-only or CC-BY-SA-4.0"),
        ("GPL-3.0-only AND MIT", ["permissive"], "GPL-3.0-only"),
        ("MIT AND (CC-BY-4.0 OR LicenseRef-x)", ["permissive"], None),
        ("GPL-2.0-only WITH Classpath-exception-2.0", ["GPL-2.0-only"], None),
        ("GPL-2.0-only WITH Classpath-exception-2.0", ["GPL-2.0-only WITH Classpath-exception-2.0"], None),
        ("GPL-2.0-only", ["GPL-2.0-only WITH Classpath-exception-2.0"], "GPL-2.0-only"),
        ("CC-BY-NC-4.0", ["permissive"], "CC-BY-NC-4.0"),
        ("LicenseRef-unknown", ["permissive"], "LicenseRef-unknown"),
    ],
)
def test_a_licence_that_is_not_on_the_list_is_refused(licence: str, named: list[str], missing: str | None) -> None:
    gate = Gate(train=named, publish=[])
    decision = decide(gate, licence, "public")
    told = f"{missing} is not in gate.train"
    assert decision.refused.get("train") == (None if missing is None else told)
    assert ("serve" in decision.allowed) == (missing is None), "serve: as train"
    assert "publish" not in decision.allowed


@pytest.mark.parametrize(
    ("confidentiality", "allowed"),
    [("public", ("train", "serve", "publish")), ("internal", ("train", "serve")), ("restricted", ())],
)
def test_what_few_may_know_is_not_learnt_unless_said(confidentiality: Any, allowed: tuple[Purpose, ...]) -> None:
    assert decide(Gate(), "MIT", confidentiality).allowed == allowed
    wide = Gate.model_validate({"confidentiality": {"train": "restricted"}})
    assert "train" in decide(wide, "MIT", confidentiality).allowed


def test_what_may_be_used_most_freely_comes_first() -> None:
    terms: list[tuple[str, Confidentiality]] = [
        ("MIT", "public"), ("GPL-3.0-only OR MIT", "internal"), ("LicenseRef-x", "public"), ("GPL-3.0-only", "internal"),
        ("CC0-1.0", "restricted"), ("MIT AND GPL-3.0-only", "restricted"),
    ]  # fmt: skip
    found = [freedom(*kind) for kind in terms]
    assert found == sorted(set(found)), found


def test_documents_that_some_purpose_does_not_allow_are_set_aside() -> None:
    documents = pa.table(
        {"licence": ["MIT", "CC-BY-NC-4.0", "MIT"], "confidentiality": ["public", "public", "internal"]}
    )
    assert reasons_against(Gate(), documents) == [None, "train: CC-BY-NC-4.0 is not in gate.train", None]
    to_publish = Gate(purposes=["train", "publish"])
    assert reasons_against(to_publish, documents)[2] == (
        "publish: internal documents are beyond gate.confidentiality.publish (public)"
    )
    assert reasons_against(Gate(purposes=[]), documents) == [None] * 3


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"train": ["MIT OR Apache-2.0"]}, "name licences one by one"),
        ({"train": ["Apache 2"]}, "no SPDX licence id"),
        ({"purposes": ["serve"]}, "need `train`"),
        ({"purposes": ["train", "train"]}, "name each once"),
        ({"confidentiality": {"train": "secret"}}, "Input should be"),
    ],
)
def test_settings_that_say_nothing_are_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Gate.model_validate(values)


def test_a_decision_holds_for_its_files_and_its_purposes() -> None:
    gate = sealed(Gate(), {"public MIT": 7, "internal Apache-2.0 OR GPL-3.0-only": 2}, FILES)
    manifest = {"gate": gate, "files": FILES}
    assert gate["allowed"] == ["train", "serve"]
    assert [(one["licence"], one["documents"]) for one in gate["decisions"]] == [
        ("Apache-2.0 OR GPL-3.0-only", 2),
        ("MIT", 7),
    ]
    require_purpose("rows", manifest, "train")
    with pytest.raises(DataError, match=r"rows may not be used to publish: internal documents are beyond"):
        require_purpose("rows", manifest, "publish")
    with pytest.raises(DataError, match="has no decision"):
        require_purpose("rows", {"files": FILES}, "train")
    other = {"train/shard-00000.parquet": {"sha256": "cd", "size": 3}}
    with pytest.raises(DataError, match="is not that of its files"):
        require_purpose("rows", {"gate": gate, "files": other}, "train")
    with pytest.raises(DataError, match="is not that of its files"):
        require_purpose("rows", {"gate": {**gate, "allowed": ["train", "publish"]}, "files": FILES}, "publish")


def test_what_is_mixed_may_do_what_all_of_it_may() -> None:
    wide = Gate(train=["permissive", "CC-BY-NC-4.0"], serve=["permissive"])
    parts = {
        "open": {"gate": sealed(Gate(), {"public MIT": 7, "public CC-BY-4.0": 1}, FILES), "files": FILES},
        "closed": {"gate": sealed(wide, {"public MIT": 2, "public CC-BY-NC-4.0": 3}, FILES), "files": FILES},
    }
    files = {"train/shard-00000.parquet": {"sha256": "new", "size": 3}}
    gate = sealed_together(parts, files)
    assert gate["allowed"] == ["train"] and gate["purposes"] == ["train", "serve"]
    assert [(one["licence"], one["documents"], one["allowed"]) for one in gate["decisions"]] == [
        ("CC-BY-4.0", 1, ["train", "serve", "publish"]),
        ("CC-BY-NC-4.0", 3, ["train"]),
        ("MIT", 9, ["train", "serve", "publish"]),
    ]
    require_purpose("mix", {"gate": gate, "files": files}, "train")
    with pytest.raises(DataError, match="mix may not be used to serve: CC-BY-NC-4.0 is not in gate.serve"):
        require_purpose("mix", {"gate": gate, "files": files}, "serve")
    with pytest.raises(DataError, match="bare has no decision"):
        sealed_together({**parts, "bare": {"files": FILES}}, files)


def test_rows_to_measure_on_are_not_learnt() -> None:
    manifest = {"gate": sealed(Gate(purposes=[]), {"public CC-BY-NC-4.0": 1}, FILES), "files": FILES}
    assert manifest["gate"]["allowed"] == []
    with pytest.raises(DataError, match=r"rows may not be used to train: CC-BY-NC-4.0 is not in gate.train"):
        require_purpose("rows", manifest, "train")


def test_what_is_made_of_several_things_may_do_what_all_of_them_may() -> None:
    assert allowed_of([]) == allowed_of([{}]) == ["train", "serve", "publish"]
    assert allowed_of([{}, {"allowed": ["train", "serve"]}, {"allowed": ["publish", "train"]}]) == ["train"]


def small_run(toy: ToyRun, tmp_path: Path, **gate: Any) -> None:
    """Base, corpus of two licences, rows, one step."""
    values = yaml.safe_load(toy.config.read_text())
    stages = {name: values["stages"][name] for name in ("base", "papers", "texts", "cpt")}
    write_toy_documents(tmp_path / "others.jsonl", count=40)
    text = (tmp_path / "others.jsonl").read_text().replace("Case", "Other case")
    (tmp_path / "others.jsonl").write_text(text)
    others = {"path": str(tmp_path / "others.jsonl"), "format": "jsonl", "licence": "CC-BY-NC-4.0"}
    stages["papers"]["sources"]["others"] = others
    stages["texts"]["gate"] = gate
    stages["cpt"] |= {"steps": 1, "resources": {"ranks": 1}}
    toy.config.write_text(yaml.safe_dump({**values, "stages": stages}, sort_keys=False))


@pytest.mark.cluster
def test_a_run_learns_from_what_is_allowed_and_from_nothing_else(tiny_model: Path, tmp_path: Path) -> None:
    toy = write_toy_run(tmp_path / "toy", tiny_model, str(tmp_path / "store"))
    small_run(toy, tmp_path)
    planned = acclimate("plan", str(toy.config), "--json")
    rows = {row["name"]: row for row in json.loads(planned.stdout)["stages"]}
    assert rows["texts"]["not_allowed"] == {"others": "train: CC-BY-NC-4.0 is not in gate.train"}
    code, said = toy.finish()
    assert code == 0, said
    assert "not_allowed" in said
    shards, corpus = toy.artifact("texts"), toy.artifact("papers")
    manifest, files = shards.content.read_json("manifest.json"), corpus.content.read_json("manifest.json")["files"]
    licence_of = {
        row["document_id"]: row["licence"]
        for name in files if name.startswith(("train/", "heldout/"))
        for row in read_table(corpus.content, name, files[name]["sha256"]).to_pylist()
    }  # fmt: skip
    learnt = {
        document
        for name, entry in manifest["files"].items() if name.startswith(("train/shard-", "heldout/shard-"))
        for ids in read_table(shards.content, name, entry["sha256"])["document_ids"].to_pylist()
        for document in ids
    }  # fmt: skip
    assert learnt == {document for document, licence in licence_of.items() if licence == "CC0-1.0"}
    assert manifest["quarantined"]["not_allowed"] == sum(licence == "CC-BY-NC-4.0" for licence in licence_of.values())
    assert shards.record["licences"] == ["CC0-1.0"] and shards.record["allowed"] == ["train", "serve"]
    assert toy.artifact("cpt").record["allowed"] == ["train", "serve"] and "allowed" not in corpus.record

    # Rows whose decision is gone, as those of another tool, are not trained on.
    del manifest["gate"]
    shards.content.write_json("manifest.json", manifest)
    code, said = toy.finish("stages.cpt.steps=2")
    assert code == 2 and "has no decision on what its documents may be used for" in said, said


def test_a_model_that_may_not_be_served_is_not(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with attempt(store, "cpt", "0123456789abcdef") as own:
        record = {"name": "secretive", "parents": {}, "licences": ["CC-BY-NC-4.0"], "config": {}, "settings": {}}
        own.commit({**record, "allowed": ["train"]})
    told = ("secretive", "may not be served", "acclimate lineage secretive")
    require_refused(acclimate("serve", "secretive", "--store", store.root), 2, *told)
    printed = f"{store.root}/artifacts/cpt-0123456789abcdef/attempts/000001/model"
    Path(printed).mkdir(parents=True)
    (tmp_path / "link").symlink_to(printed)
    around = f"{store.root}/artifacts/sft-0123456789abcdef/../cpt-0123456789abcdef/attempts/000001/model"
    Path(store.root, "artifacts/sft-0123456789abcdef").mkdir()
    for path in (printed, f"{printed}/", printed.partition("/attempts/")[0], str(tmp_path / "link"), around):
        require_refused(acclimate("serve", path), 2, *told)


def test_a_copy_of_a_model_may_do_what_the_model_may(tiny_model: Path, tmp_path: Path) -> None:
    """Also where it comes from another store, by the path that a run has printed."""
    other = Store(str(tmp_path / "other"))
    with attempt(other, "cpt", "0123456789abcdef") as own:
        shutil.copytree(tiny_model, Path(own.content.root) / "model")
        record = {"name": "secretive", "parents": {}, "licences": ["CC-BY-NC-4.0"], "config": {}, "settings": {}}
        own.commit({**record, "allowed": ["train"]})
        printed = own.content.path("model")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({
        "name": "copied", "store": str(tmp_path / "store"), "stages": {"again": {"stage": "model", "source": printed}},
    }))  # fmt: skip
    make_here(ToyRun(tmp_path / "run.yaml", Store(str(tmp_path / "store"))))
    copied = find_named(Store(str(tmp_path / "store")), "again")
    assert copied.record["allowed"] == ["train"] and copied.record["licences"] == ["CC-BY-NC-4.0"]
    part = Part(other.below("artifacts", "cpt-0123456789abcdef", "attempts", "000001", "model"), None)
    assert part.record is not None and part.record["name"] == "secretive"
    with pytest.raises(ArtifactNotFound, match="never finished"):
        artifact_around(other.below("artifacts", "cpt-fedcba9876543210", "attempts", "000001", "model"))


def test_a_run_without_an_allowed_source_is_refused_before_it_starts(tiny_model: Path, tmp_path: Path) -> None:
    toy = write_toy_run(tmp_path / "toy", tiny_model, str(tmp_path / "store"))
    small_run(toy, tmp_path, train=["MIT"])
    told = ("no source of papers may be used for train and serve", "gate: {train: [permissive, CC0-1.0]}")
    require_refused(acclimate("run", str(toy.config), "--yes"), 2, *told, store=toy.store)
