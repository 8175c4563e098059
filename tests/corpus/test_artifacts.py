"""Corpus and shards on real clusters: the bytes do not depend on hosts, CPUs or lost workers, and every row is somewhere."""

import contextlib
import hashlib
import io
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from ray.cluster_utils import Cluster

from cluster.storage import Store
from configs.schema.corpus import Cleaning, CorpusStage, ShardsStage, Source
from jobs.corpus.collect import CorpusSummary, build_corpus, read_corpus_split
from jobs.corpus.partitions import run_partitions
from jobs.corpus.provenance import document_manifest
from jobs.corpus.schema import DataError, write_table
from jobs.corpus.shards import build_shards
from jobs.corpus.template import TemplateError, load_template
from tests.corpus.sources import conversation_rows, text_rows, write_jsonl, write_pubmed
from tests.world.tiny_model import write_tiny_model

pytestmark = pytest.mark.cluster

REPEATED = {"text": "The same words in three places. " * 3}


@contextlib.contextmanager
def raylets(count: int, cpus: int) -> Iterator[None]:
    """A cluster of `count` raylets with `cpus` logical CPUs each, joined by this process."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus, "include_dashboard": False})
    try:
        for _ in range(count - 1):
            cluster.add_node(num_cpus=cpus)
        ray.init(address=cluster.address, log_to_driver=False)
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[CorpusStage]:
    with contextlib.chdir(tmp_path):
        yield write_sources()


def write_sources() -> CorpusStage:
    write_jsonl(Path("general/a.jsonl"), [*text_rows(60), REPEATED, REPEATED])
    write_jsonl(Path("general/b.jsonl"), [{"text": 7}, REPEATED, {"text": "short"}, *text_rows(5)])
    write_jsonl(Path("talks/a.jsonl"), conversation_rows(40))
    write_pubmed(Path("pubmed/p.xml.gz"))
    sources = {
        "talks": Source(path="talks", format="jsonl", licence="CC-BY-SA-3.0"),
        "general": Source(path="general", format="jsonl", licence="ODC-By-1.0"),
        "pubmed": Source(path="pubmed", format="pubmed", licence="LicenseRef-NLM", confidentiality="public"),
    }
    return CorpusStage(
        stage="corpus", sources=sources, cleaning=Cleaning(minimum_characters=20), heldout_fraction=0.2, partitions=5
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = write_tiny_model(tmp_path_factory.mktemp("chat") / "model")
    (path / "chat_template.jinja").write_text(load_template("instruction", Path()))
    return Store(str(path))


def shards_stage(rows: str, context: int = 64) -> ShardsStage:
    return ShardsStage.model_validate(
        {
            "stage": "shards",
            "corpus": "corpus",
            "model": "model",
            "rows": rows,
            "context": context,
            "shards": 3,
            "gate": {"train": ["permissive", "CC-BY-SA-3.0", "LicenseRef-NLM"]},
        }
    )


def silent(label: str, done: int, total: int) -> None:
    assert 0 <= done <= total, (label, done, total)


def digests(store: Store) -> dict[str, str]:
    """Of all files but collected.parquet, which says when the inputs were found (jobs/corpus/provenance.py)."""
    names = [file.name for file in store.files() if not file.name.endswith("collected.parquet")]
    return {name: hashlib.sha256(store.read(name)).hexdigest() for name in names}


def build_everything(stage: CorpusStage, model: Store, root: Path) -> dict[str, str]:
    store = Store(str(root))
    build_corpus(stage, store.below("corpus"), silent)
    for rows in ("text", "messages"):
        build_shards(shards_stage(rows), store.below("corpus"), model, store.below(rows), silent)
    return digests(store)


def test_bytes_are_equal_on_one_and_on_three_raylets(stage: CorpusStage, model: Store, tmp_path: Path):
    with raylets(1, 1):
        one = build_everything(stage, model, tmp_path / "one")
    with raylets(3, 2):
        three = build_everything(stage, model, tmp_path / "three")
    assert one == three
    assert sum(name.startswith("text/train/shard-") for name in one) == 3
    assert "messages/heldout/index.parquet" in one


@pytest.fixture(scope="module")
def small_cluster() -> Iterator[None]:
    with raylets(1, 2):
        yield


@pytest.fixture
def built(small_cluster: None, stage: CorpusStage, tmp_path: Path) -> tuple[CorpusSummary, Store]:
    store = Store(str(tmp_path / "corpus"))
    return build_corpus(stage, store, silent), store


def tables(store: Store, folder: str) -> pa.Table:
    return pa.concat_tables(
        pq.read_table(io.BytesIO(store.read(folder, name))) for name in store.names(folder) if name != "index.parquet"
    )


def test_every_row_is_kept_or_named(built: tuple[CorpusSummary, Store]):
    summary, store = built
    train, heldout = read_corpus_split(store, "train"), read_corpus_split(store, "heldout")
    quarantine = tables(store, "quarantine")
    # general: 60 + 1 of 68 rows; talks: 40; pubmed: 2 of 6.
    assert summary.documents_by_source == {"general": 61, "pubmed": 2, "talks": 40}
    assert (summary.train, summary.heldout) == (train.num_rows, heldout.num_rows)
    assert summary.train + summary.heldout == 103
    assert summary.conversations == 41
    assert not set(train["document_id"].to_pylist()) & set(heldout["document_id"].to_pylist())
    assert train["document_id"].to_pylist() == sorted(train["document_id"].to_pylist())
    reasons = Counter(quarantine["reason"].to_pylist())
    assert reasons == summary.quarantined
    assert reasons == {
        "duplicate": 7, "wrong_type": 1, "too_short": 1, "no_abstract": 1, "not_english": 1, "retracted": 1, "repeated_pmid": 1,
    }  # fmt: skip
    repeated = {row["uri"]: row["detail"] for row in quarantine.to_pylist() if row["detail"] == "general/a.jsonl#61"}
    assert repeated == {"general/a.jsonl#62": "general/a.jsonl#61", "general/b.jsonl#2": "general/a.jsonl#61"}
    manifest = store.read_json("manifest.json")
    assert document_manifest(store).num_rows == 103
    assert manifest["documents_by_encoding"] == {"utf-8": 103}
    assert manifest["documents_by_licence"] == {"CC-BY-SA-3.0": 40, "LicenseRef-NLM": 2, "ODC-By-1.0": 61}
    assert {name: entry["sha256"] for name, entry in manifest["files"].items()} == {
        name: digest for name, digest in digests(store).items() if name != "manifest.json"
    }


def test_a_limit_takes_the_first_documents_of_a_source(
    built: tuple[CorpusSummary, Store], stage: CorpusStage, tmp_path: Path
):
    limited = stage.sources["general"].model_copy(update={"limit_documents": 62})
    store = Store(str(tmp_path / "limited"))
    build_corpus(stage.model_copy(update={"sources": {"general": limited}}), store, silent)
    uris = {
        *read_corpus_split(store, "train")["uri"].to_pylist(),
        *read_corpus_split(store, "heldout")["uri"].to_pylist(),
    }
    # The limit counts documents before duplicates are dropped; row 62 of the first file repeats row 61.
    assert uris == {f"general/a.jsonl#{row}" for row in range(1, 62)}


def test_text_shards_lose_no_token(built: tuple[CorpusSummary, Store], model: Store, tmp_path: Path):
    summary, corpus = built
    output = Store(str(tmp_path / "shards"))
    result = build_shards(shards_stage("text"), corpus, model, output, silent)
    rows = tables(output, "train").to_pylist()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model.root)
    documents = read_corpus_split(corpus, "train")
    lengths = {
        document_id: len(tokenizer(text)["input_ids"]) + 1
        for document_id, text in zip(documents["document_id"].to_pylist(), documents["text"].to_pylist(), strict=True)
    }
    packed = Counter[int]()
    for row in rows:
        assert len(row["input_ids"]) == len(row["weights"]) == sum(row["segment_lengths"]) <= 64
        assert len(row["document_ids"]) == len(row["segment_lengths"])
        packed.update(dict.fromkeys(row["document_ids"], 0))
        for document_id, length in zip(row["document_ids"], row["segment_lengths"], strict=True):
            packed[document_id] += length
    # Of a text of 65 tokens the last one would be alone in its piece, where nothing predicts it.
    lone = {document_id for document_id, length in lengths.items() if length > 64 and length % 64 == 1}
    assert packed == {document_id: length - (document_id in lone) for document_id, length in lengths.items()}
    index = pq.read_table(io.BytesIO(output.read("train/index.parquet"))).to_pylist()
    assert [entry["tokens"] for entry in index] == [len(row["input_ids"]) for row in rows]
    assert [entry["weight"] for entry in index] == [sum(row["weights"]) for row in rows]
    assert [(entry["shard"], entry["row"]) for entry in index] == sorted(
        (entry["shard"], entry["row"]) for entry in index
    )
    assert result.train.tokens == sum(lengths.values()) - len(lone)
    assert result.train.weighted_tokens == result.train.tokens - sum(len(row["segment_lengths"]) for row in rows)
    assert result.train.fill == result.train.tokens / (64 * len(rows))
    assert result.train.documents == summary.train


@pytest.mark.parametrize("shards", [2, 5, 20])
def test_shards_are_the_same_by_file_and_by_shuffle(
    built: tuple[CorpusSummary, Store], model: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: int
):
    _, corpus = built
    wanted = shards_stage("text").model_copy(update={"shards": shards})
    shuffled: list[int] = []

    def counted(units: list, read: object, write: object, partitions: int, *rest: object) -> list:
        shuffled.append(partitions)
        return run_partitions(units, read, write, partitions, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("jobs.corpus.shard_documents.run_partitions", counted)
    build_shards(wanted, corpus, model, Store(str(tmp_path / "by_file")), silent)
    assert not shuffled
    manifest = corpus.read_json("manifest.json")
    assert manifest.pop("partitions") == 5
    corpus.write_json("manifest.json", manifest)  # as corpora were written before
    build_shards(wanted, corpus, model, Store(str(tmp_path / "by_shuffle")), silent)
    assert shuffled == [shards]
    assert digests(Store(str(tmp_path / "by_file"))) == digests(Store(str(tmp_path / "by_shuffle")))


def test_conversations_without_room_for_an_answer_are_named(
    built: tuple[CorpusSummary, Store], model: Store, tmp_path: Path
):
    summary, corpus = built
    output = Store(str(tmp_path / "shards"))
    result = build_shards(shards_stage("messages", context=64), corpus, model, output, silent)
    refused = tables(output, "quarantine").to_pylist()
    assert result.quarantined == {"answer_cut_off": len(refused)}
    assert any(row["uri"] == "pubmed/p.xml.gz#1" for row in refused)
    assert result.left_out == summary.train + summary.heldout - 41
    assert result.train.documents + result.heldout.documents + len(refused) == 41
    with pytest.raises(DataError, match="every label of the training split is masked.*Raise `context`"):
        build_shards(shards_stage("messages", context=16), corpus, model, Store(str(tmp_path / "none")), silent)


def test_what_cannot_be_packed_is_said_before_any_work(
    built: tuple[CorpusSummary, Store], stage: CorpusStage, model: Store, tmp_path: Path
):
    _, corpus = built
    output = Store(str(tmp_path / "x"))
    with pytest.raises(DataError, match="document_end: '<eot>' is not a token"):
        build_shards(shards_stage("text").model_copy(update={"document_end": "<eot>"}), corpus, model, output, silent)
    bare = Store(str(write_tiny_model(tmp_path / "bare")))
    with pytest.raises(TemplateError, match="no chat template"):
        build_shards(shards_stage("messages"), corpus, bare, output, silent)
    only_text = stage.model_copy(update={"sources": {"general": stage.sources["general"]}})
    build_corpus(only_text, Store(str(tmp_path / "text")), silent)
    with pytest.raises(DataError, match="no document of .* has messages"):
        build_shards(shards_stage("messages"), Store(str(tmp_path / "text")), model, output, silent)
    strict = only_text.model_copy(update={"cleaning": Cleaning(minimum_characters=10_000)})
    with pytest.raises(DataError, match="no document is left for training.*'too_short'"):
        build_corpus(strict, Store(str(tmp_path / "strict")), silent)
    name = next(name for name in corpus.read_json("manifest.json")["files"] if name.startswith("train/"))
    corpus.write(name, corpus.read(name)[:-1])
    with pytest.raises(DataError, match=f"{name} is damaged"):
        build_shards(shards_stage("text"), corpus, model, output, silent)


@pytest.mark.parametrize("kill_in", ["read", "write"])
def test_a_worker_killed_once_changes_nothing(small_cluster: None, tmp_path: Path, kill_in: str):
    """SIGKILL between a task's work and its answer: the task is run again, and its rows are neither lost nor doubled."""
    killed = tmp_path / "killed"

    def kill_once(where: str) -> None:
        if where == kill_in and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def read(unit: dict) -> Iterator[pa.Table]:
        values = range(unit["start"], unit["start"] + 50)
        yield pa.table({"value": values, "partition": pa.array([value % 4 for value in values], pa.int32())})
        kill_once("read")

    def write(partition: int, rows: pa.Table) -> dict:
        written = write_table(Store(str(tmp_path / "out")), f"{partition}.parquet", rows.sort_by("value"))
        kill_once("write")
        return {"counts": {"rows": written.rows}}

    reports = run_partitions([{"start": 50 * number} for number in range(8)], read, write, 4, "kill", silent)
    assert killed.exists()
    assert [report["counts"]["rows"] for report in reports] == [100] * 4
    values = [pq.read_table(tmp_path / "out" / f"{partition}.parquet")["value"].to_pylist() for partition in range(4)]
    assert values == [[value for value in range(400) if value % 4 == partition] for partition in range(4)]
