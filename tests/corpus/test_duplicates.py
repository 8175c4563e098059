"""Near-copies and evaluation texts planted in a corpus, through the real stage on Ray Data."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.session import connect
from cluster.storage import Store
from configs.schema.corpus import CorpusStage
from configs.schema.run import Cluster
from jobs.corpus.collect import CorpusSummary, build_corpus, read_corpus_split
from jobs.corpus.schema import DataError, read_table
from jobs.quickstart_assets import prepare_assets
from tests.world.toy_run import tree_digest

pytestmark = pytest.mark.cluster

VOCABULARY = [f"word{number}" for number in range(5000)]
TEXTS, COPIES, QUESTIONS = 300, 60, 10
ASSETS = Path(__file__).parents[2] / "artifacts/assets"
LONG_ANSWER = 60
"""Words: one of them changed leaves nine of ten 5-grams."""


def write_texts(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def words_of(generator: np.random.Generator, count: int = 160) -> list[str]:
    return [str(word) for word in generator.choice(VOCABULARY, count)]


def near_copy(generator: np.random.Generator, words: list[str]) -> list[str]:
    """One word is another, and the last two are gone: 0.93 of the 5-grams are the same."""
    copy = list(words[:-2])
    for place in generator.choice(len(copy), 1):
        copy[place] = f"other{generator.integers(10**6)}"
    return copy


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Files of texts: originals, near-copies of some, texts that quote a question, and the questions."""
    generator = np.random.default_rng(11)
    directory = tmp_path_factory.mktemp("planted")
    originals = [words_of(generator) for _ in range(TEXTS)]
    questions = [words_of(generator, 40) for _ in range(QUESTIONS)]
    copies = [near_copy(generator, words) for words in originals[:COPIES]]
    quoting = [[*words_of(generator, 80), *question, *words_of(generator, 20)] for question in questions]
    later = [near_copy(generator, words) for words in originals[-5:]] + [words_of(generator) for _ in range(5)]
    files = {"originals": originals, "copies": copies, "quoting": quoting, "questions": questions, "later": later}
    return {
        name: write_texts(directory / f"{name}.jsonl", [" ".join(words) for words in texts])
        for name, texts in files.items()
    }


@pytest.fixture(scope="module")
def on_ray() -> Any:
    with connect(Cluster(logical_cpus=4)):
        yield


def stage_of(planted: dict[str, str], *names: str, **settings: Any) -> CorpusStage:
    sources = {name: {"path": planted[name], "format": "jsonl", "licence": "CC0-1.0"} for name in names}
    values = {"stage": "corpus", "sources": sources, "heldout_fraction": 0.2, "partitions": 3, **settings}
    return CorpusStage.model_validate(values)


def build(stage: CorpusStage, store: Store, earlier: dict[str, Store] | None = None) -> CorpusSummary:
    return build_corpus(stage, store, lambda label, done, total: None, earlier)


def set_aside(store: Store) -> list[dict[str, Any]]:
    files = store.read_json("manifest.json")["files"]
    names = [name for name in files if name.startswith("quarantine/")]
    return [row for name in names for row in read_table(store, name, files[name]["sha256"]).to_pylist()]


def test_near_copies_go_and_nothing_else(on_ray: None, planted: dict[str, str], tmp_path: Path) -> None:
    stage = stage_of(planted, "copies", "originals", near_duplicates={})
    summary = build(stage, Store(str(tmp_path / "a")))
    store = Store(str(tmp_path / "a"))
    gone = set_aside(store)
    # `copies` is the first source: of each pair its text stays, whatever the length.
    assert summary.quarantined == {"near_duplicate": COPIES}
    assert summary.train + summary.heldout == TEXTS
    number = {row["uri"].rpartition("#")[2] for row in gone}
    assert {row["source"] for row in gone} == {"originals"} and len(number) == COPIES
    assert all(row["detail"].rpartition("#")[2] == row["uri"].rpartition("#")[2] for row in gone)
    assert not store.names("work")
    manifest = store.read_json("manifest.json")["near_duplicates"]
    assert manifest["clusters"] == COPIES and manifest["largest"] == 2
    build(stage, Store(str(tmp_path / "b")))
    for name in ("train", "heldout", "quarantine", "near"):
        assert tree_digest(store.below(name)) == tree_digest(Store(str(tmp_path / "b")).below(name))


def test_of_documents_that_are_alike_the_freest_stays(on_ray: None, planted: dict[str, str], tmp_path: Path) -> None:
    """The same texts three times: by other terms, then restricted, then freely; and near-copies of some by other terms."""
    stage = stage_of(planted, "copies", near_duplicates={})
    terms = {
        "terms": ("originals", "LicenseRef-theirs", "public"), "secret": ("originals", "CC0-1.0", "restricted"),
        "near": ("copies", "LicenseRef-theirs", "public"), "free": ("originals", "CC0-1.0", "public"),
    }  # fmt: skip
    sources = {
        name: {
            "path": str(shutil.copy(planted[file], tmp_path / f"{name}.jsonl")),
            "format": "jsonl",
            "licence": licence,
            "confidentiality": confidentiality,
        }
        for name, (file, licence, confidentiality) in terms.items()
    }
    stage = CorpusStage.model_validate({**stage.model_dump(), "sources": sources})
    summary = build(stage, Store(str(tmp_path / "out")))
    assert summary.quarantined == {"duplicate": 2 * TEXTS, "near_duplicate": COPIES}
    assert {row["source"] for row in set_aside(Store(str(tmp_path / "out")))} == {"terms", "secret", "near"}
    assert summary.documents_by_licence == {"CC0-1.0 OR LicenseRef-theirs": TEXTS}  # by either, as both are public


def test_a_corpus_without_documents_to_compare_is_said_or_written(on_ray: None, tmp_path: Path) -> None:
    """All set aside before: the error of an empty corpus. Judged answers alone: they are not compared, and stay."""
    nothing = {"texts": write_texts(tmp_path / "texts.jsonl", ["too short"])}
    with pytest.raises(DataError, match="no document is left for training"):
        build(stage_of(nothing, "texts", near_duplicates={}), Store(str(tmp_path / "nothing")))
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(
        "".join(json.dumps({"prompt": f"What is {n}?", "chosen": "A", "rejected": "B"}) + "\n" for n in range(9))
    )
    cleaning = {"minimum_characters": 1}
    stage = stage_of({"pairs": str(pairs)}, "pairs", near_duplicates={}, cleaning=cleaning)
    stage = stage.model_copy(
        update={"sources": {"pairs": stage.sources["pairs"].model_copy(update={"format": "auto"})}}
    )
    summary = build(stage, Store(str(tmp_path / "pairs")))
    assert summary.preferences == 9 and summary.quarantined == {}


def test_the_audit_of_personal_data_survives_the_comparison(
    on_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCLIMATE_PII_SALT", "0123456789abcdef0123")
    generator = np.random.default_rng(12)
    told = {"told": write_texts(tmp_path / "told.jsonl", [" ".join([*words_of(generator), "ask anna@uni-bonn.de"])])}
    stage = stage_of(told, "told", near_duplicates={}, pii={"tier": "patterns"}, heldout_fraction=0)
    store = Store(str(tmp_path / "out"))
    summary = build(stage, store)
    assert summary.personal == {"email": 1} and set(summary.canary_recall.values()) == {1.0}
    (name,) = (name for name in store.read_json("manifest.json")["files"] if name.startswith("personal/"))
    (row,) = read_table(store, name, store.read_json("manifest.json")["files"][name]["sha256"]).to_pylist()
    assert row["kind"] == "email" and len(row["digest"]) == 32


def test_texts_of_an_evaluation_set_go_and_are_named(on_ray: None, planted: dict[str, str], tmp_path: Path) -> None:
    questions = Store(str(tmp_path / "questions"))
    build(stage_of(planted, "questions", cleaning={"minimum_characters": 1}), questions)
    stage = stage_of(planted, "originals", "quoting", decontamination={"against": ["asked"]})
    summary = build(stage, Store(str(tmp_path / "clean")), {"decontamination.against.0": questions})
    assert summary.quarantined == {"contaminated": QUESTIONS}
    gone = set_aside(Store(str(tmp_path / "clean")))
    assert {row["source"] for row in gone} == {"quoting"}
    assert all(row["detail"].startswith("100% of asked: ") for row in gone)


def test_what_an_earlier_release_has_goes(on_ray: None, planted: dict[str, str], tmp_path: Path) -> None:
    first, without = Store(str(tmp_path / "first")), Store(str(tmp_path / "without"))
    build(stage_of(planted, "originals", near_duplicates={}), first)
    stage = stage_of(planted, "later", near_duplicates={"against": ["first"]})
    summary = build(stage, Store(str(tmp_path / "later")), {"near_duplicates.against.0": first})
    assert summary.quarantined == {"near_duplicate": 5}
    details = {row["detail"] for row in set_aside(Store(str(tmp_path / "later")))}
    assert all("originals.jsonl#" in detail for detail in details) and len(details) == 5
    kept = [
        row
        for split in ("train", "heldout")
        for row in read_corpus_split(Store(str(tmp_path / "later")), split).to_pylist()
    ]
    assert len(kept) == 5
    build(stage_of(planted, "originals"), without)
    with pytest.raises(DataError, match="first has no signatures"):
        build(stage, Store(str(tmp_path / "again")), {"near_duplicates.against.0": without})


def test_of_real_conversations_copies_go_and_questions_about_one_passage_stay(on_ray: None, tmp_path: Path) -> None:
    if not (ASSETS / "assets.json").exists():
        prepare_assets(ASSETS, print)
    rows = json.loads((ASSETS / "instructions/alpaca_en_demo.json").read_text())
    long = [row for row in {row["output"]: row for row in rows}.values() if len(row["output"].split()) >= LONG_ANSWER]
    copies = []
    for row in long[:60]:
        words = row["output"].split(" ")
        words[len(words) // 2] = "otherwise"
        copies.append({**row, "output": " ".join(words)})
    passage = " ".join(row["output"] for row in long[-3:])
    asking = [{**row, "input": passage} for row in long[60:90]]
    sources: dict[str, Any] = {}
    for name, told in {"own": long[:60], "copies": copies, "asking": asking}.items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(told))
        sources[name] = {"path": str(path), "licence": "CC0-1.0"}
    settings = {
        "sources": sources,
        "near_duplicates": {},
        "heldout_fraction": 0.2,
        "cleaning": {"minimum_characters": 1},
    }
    store = Store(str(tmp_path / "out"))
    summary = build(CorpusStage.model_validate({"stage": "corpus", "partitions": 3, **settings}), store)
    assert summary.documents_by_source == {"own": 60, "asking": 30}
    assert {(row["source"], row["reason"]) for row in set_aside(store)} == {("copies", "near_duplicate")}
