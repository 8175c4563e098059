"""Data cards: counts of a corpus that was counted by hand, samples that hold nothing restricted, looks that stay small."""

import io
import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.storage import Store
from jobs.corpus.clusters import CLUSTER_SCHEMA
from jobs.corpus.schema import DataError, write_table
from jobs.inspection import card_samples
from jobs.inspection.card import data_card
from jobs.inspection.card_page import card_html, size
from jobs.inspection.card_records import DataCard, NearDuplicateCard
from jobs.inspection.card_samples import Bin, ClusterSizes, Lengths, cluster_sizes, doubling_bins
from jobs.inspection.excerpts import PARTITIONS_READ, look
from tests.world.toy_corpus import SECRET, make_here, write_corpus_run
from tests.world.toy_run import ToyRun, copy_artifacts


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> ToyRun:
    directory = tmp_path_factory.mktemp("carded")
    made = write_corpus_run(directory / "run", tiny_model, str(directory / "store"))
    make_here(made)
    return made


def card_of(run: ToyRun, name: str, documents: int = 1000, seed: int = 0) -> DataCard:
    card = data_card(run.store, run.artifact(name), documents, seed)
    assert isinstance(card, DataCard)
    return card


def test_counts_of_a_corpus(run: ToyRun) -> None:
    corpus = card_of(run, "corpus").corpus
    assert (corpus.documents, corpus.sampled, corpus.lengths.of) == (140, 140, 140)
    assert corpus.train + corpus.heldout == 140 and corpus.heldout > 0
    assert {source.source: source.documents for source in corpus.sources} == {"papers": 80, "notes": 40, "secret": 20}
    assert [source.formats for source in corpus.sources] == [{"text_rows": 80}, {"text_rows": 40}, {"text_rows": 20}]
    assert [source.share for source in corpus.sources] == pytest.approx([80 / 140, 40 / 140, 20 / 140])
    assert corpus.documents_by_licence == {"CC-BY-4.0": 80, "CC0-1.0": 40, "LicenseRef-Own": 20}
    assert corpus.documents_by_confidentiality == {"internal": 40, "public": 80, "restricted": 20}
    languages = {source.source: source.sample.languages for source in corpus.sources}
    assert languages["notes"] == {"de": 1.0} and languages["secret"] == {"en": 1.0} and languages["papers"]["en"] > 0.95
    assert corpus.duplicates.exact == 3 and corpus.duplicates.near is None and corpus.duplicates.contaminated is None
    assert corpus.personal.tier == "patterns" and corpus.personal.replaced == {"email": 40}
    assert corpus.personal.canary_recall["email"] >= 0.95
    assert {found.reason: found.rows for found in corpus.quarantined} == {
        "duplicate": 3,
        "too_short": 2,
        "wrong_type": 1,
    }
    assert sum(each.count for each in corpus.lengths.bins) == 140
    for file in (file for source in corpus.sources for file in source.inputs):
        assert file.fingerprint.startswith("sha256:") and file.size > 0


def test_nothing_restricted_is_shown(run: ToyRun) -> None:
    for seed in range(5):
        card = card_of(run, "texts", seed=seed)
        assert SECRET not in json.dumps(asdict(card)) and SECRET not in card_html(card)
        assert card.corpus.withheld == ["secret"]
        assert [bool(source.inputs) for source in card.corpus.sources] == [True, True, False]
        assert {found.reason: found.withheld for found in card.corpus.quarantined} == {
            "duplicate": 1, "too_short": 1, "wrong_type": 0,
        }  # fmt: skip
        shown = [row for found in card.corpus.quarantined for row in found.samples]
        assert len(shown) == 4 and {row.source for row in shown} == {"papers"}
        assert [sample.source for sample in card.corpus.samples] == ["notes", "papers", "notes", "papers", "notes"]
    page = card_html(card_of(run, "corpus"))
    assert "Nothing of secret is shown" in page and "are of restricted sources and not shown" in page


def test_documents_are_text_on_the_page(run: ToyRun) -> None:
    pages = [card_html(card_of(run, "corpus", seed=seed)) for seed in range(5)]
    assert any("&lt;script&gt;alert(&#34;x&#34;)" in page for page in pages)
    for page in pages:
        assert "<script" not in page and "<img" not in page
        assert not re.findall(r"https?://|@import|url\(|<link|<iframe", page.replace("http://example.org/x", ""))
        assert "default-src 'none'" in page


def test_the_page_says_what_the_card_says(run: ToyRun) -> None:
    page = card_html(card_of(run, "texts"))
    for said in (
        "CC-BY-4.0", "LicenseRef-Own", "57.1 %", "too_short", "de 100.0 %", "papers.jsonl", "140 of 140 documents", "Packed rows",
        'aria-label="tokens of a document"', 'aria-label="characters of a document"', 'aria-label="training tokens by source"',
    ):  # fmt: skip
        assert said in page, said
    card = card_of(run, "texts")
    assert page == card_html(card), "made again it is the same"
    assert "not looked for" in page and "of a cluster" not in page
    found = NearDuplicateCard(91, 17, 4, 5, ClusterSizes([Bin(2, 4, 3), Bin(4, 8, 1)], one_in=1))
    compared = replace(
        card.corpus, duplicates=replace(card.corpus.duplicates, near=13, contaminated=0, comparison=found)
    )
    page = card_html(replace(card, corpus=compared))
    assert 'aria-label="documents of a cluster"' in page and "4 to 7 documents: 1 clusters" in page
    assert "not looked for" not in page and ">91<" in page and ">13<" in page


def test_tokens_of_shards(run: ToyRun) -> None:
    card = card_of(run, "texts")
    shards = card.shards
    assert shards is not None and card.corpus.name == "corpus"
    counts = run.artifact("texts").record["counts"]
    for split, told in (("train", shards.train), ("heldout", shards.heldout)):
        assert told.tokens == counts[split]["tokens"] == sum(told.tokens_by_source.values())
        assert set(told.tokens_by_source) == {"papers", "notes", "secret"}
    assert shards.lengths.counted == shards.lengths.of == 140
    content = run.artifact("texts").content
    lengths: dict[int, int] = {}
    for info in content.files():
        if info.name.startswith(("train/shard", "heldout/shard")):
            for row in pq.read_table(io.BytesIO(content.read(info.name))).to_pylist():
                for owner, length in zip(row["document_ids"], row["segment_lengths"], strict=True):
                    lengths[owner] = lengths.get(owner, 0) + length
    assert shards.lengths == Lengths.of_values(list(lengths.values()), 140, "tokens")
    assert max(lengths.values()) > 64, "some texts span rows"


def test_a_seed_chooses_and_a_limit_bounds(run: ToyRun) -> None:
    few = [card_of(run, "corpus", documents=12, seed=seed).corpus for seed in (0, 0, 1)]
    assert few[0] == few[1] and few[0].samples != few[2].samples
    for card in few:
        assert card.sampled == card.lengths.counted == 12 and card.lengths.of == 140
        assert sum(source.sample.documents for source in card.sources) == 12
        assert card.documents == 140


def test_an_earlier_version_and_damage_are_said(run: ToyRun, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "copy"))
    copy_artifacts(run.store, store)
    copied = ToyRun(run.config, store)
    content = copied.artifact("texts").content
    manifest = content.read_json("manifest.json")
    del manifest["shards"]
    content.write_json("manifest.json", manifest)
    with pytest.raises(DataError, match=r"\(texts\) was made by an earlier version.*no `shards`"):
        card_of(copied, "texts")
    content = copied.artifact("corpus").content
    whole = content.read("train/part-00001.parquet")
    content.write("train/part-00001.parquet", whole[:-40] + bytes(40))
    with pytest.raises(DataError, match=r"train/part-00001.parquet is damaged"):
        card_of(copied, "corpus")
    content.remove("train/part-00001.parquet")
    with pytest.raises(DataError, match=r"train/part-00001.parquet is missing"):
        card_of(copied, "corpus")


@pytest.mark.cluster
def test_a_card_from_s3_is_that_from_disk(run: ToyRun, s3_store: Store) -> None:
    copy_artifacts(run.store, s3_store)
    here, there = (asdict(card_of(ToyRun(run.config, store), "texts")) for store in (run.store, s3_store))
    for part in ("corpus", "shards"):
        assert there[part].pop("directory").startswith("s3://")
        here[part].pop("directory")
    assert here == there


class Watched(Store):
    """Counts what is asked for."""

    def read_range(self, start: int, length: int, *parts: str) -> bytes:
        asked.append(length)
        return super().read_range(start, length, *parts)


asked: list[int] = []


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, Any]]:
    """20 partitions, the first with 8,192 texts of 4 kB that cannot be compressed, in two row groups."""
    store = Watched(str(tmp_path_factory.mktemp("large")))
    random = np.random.default_rng(0)
    files = {}
    for partition in range(20):
        rows = 8192 if partition == 0 else 100
        texts = [random.bytes(2000).hex() for _ in range(rows)]
        table = pa.table({"number": [partition * 100_000 + n for n in range(rows)], "text": texts})
        file = write_table(store, f"train/part-{partition:05d}.parquet", table)
        files[file.name] = {"sha256": file.sha256, "size": file.size, "rows": file.rows}
    return store, files


def test_a_look_into_large_files_is_small(large: tuple[Store, dict[str, Any]]) -> None:
    store, files = large
    only = {name: entry for name, entry in files.items() if name.endswith("00000.parquet")}
    seen = set()
    for seed in range(6):
        asked.clear()
        excerpt = look(store, only, ("train",), 200, ["number", "text"], seed)
        numbers = [number for _, batch in excerpt.batches() for number in batch["number"].to_pylist()]
        assert numbers in (list(range(200)), list(range(4096, 4296))), "the first rows of a row group"
        seen.add(numbers[0])
        assert sum(asked) < 6 * 2**20 < only["train/part-00000.parquet"]["size"] / 2
    assert seen == {0, 4096}


def test_a_look_takes_its_share_of_few_partitions(large: tuple[Store, dict[str, Any]]) -> None:
    store, files = large
    for seed in range(4):
        excerpt = look(store, files, ("train",), 333, ["number"], seed)
        read = [(name, number) for name, batch in excerpt.batches() for number in batch["number"].to_pylist()]
        assert len(read) == len(set(read)) == excerpt.rows == 333 and excerpt.of == 8192 + 19 * 100
        assert len({name for name, _ in read}) <= PARTITIONS_READ == len(excerpt.quotas)
        there = {name: files[name]["rows"] for name in excerpt.quotas}
        for name, quota in excerpt.quotas.items():
            assert abs(quota - 333 * there[name] / sum(there.values())) <= 1
    few = {name: entry for name, entry in files.items() if name[-9] in "12"}
    assert look(store, few, ("train",), 5000, ["number"], 0).rows == 400
    assert look(store, files, ("heldout",), 5000, ["number"], 0).rows == 0


@given(st.lists(st.integers(0, 2**40), max_size=50))
def test_bins_hold_their_values(values: list[int]) -> None:
    bins = doubling_bins(np.array(values, dtype=np.int64))
    for each in bins:
        assert each.count == sum(each.least <= value < each.below for value in values)
    assert sum(each.count for each in bins) == len(values)
    assert [each.below for each in bins[:-1]] == [each.least for each in bins[1:]]
    assert not bins or (bins[0].count and bins[-1].count)


def test_bins_by_hand() -> None:
    assert doubling_bins(np.array([0, 1, 1, 3, 8])) == [
        Bin(0, 1, 1),
        Bin(1, 2, 2),
        Bin(2, 4, 1),
        Bin(4, 8, 0),
        Bin(8, 16, 1),
    ]
    lengths = Lengths.of_values([10, 20, 30, 40], 9, "tokens")
    assert (lengths.p5, lengths.p50, lengths.p95, lengths.longest) == (10, 20, 40, 40)


def test_clusters_are_measured_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clusters of 1, 2, 2, 3 and 5 documents; where there are too many, a part of the clusters, but all of each."""
    store = Store(str(tmp_path))
    ids = [cluster for cluster, count in ((-4, 1), (6, 2), (-9, 2), (8, 3), (-7, 5)) for _ in range(count)]
    rows = [
        {"document_id": n, "cluster_id": cluster, "kept": True, "like": "", "split_by": ""}
        for n, cluster in enumerate(ids)
    ]
    file = write_table(store, "near/clusters.parquet", pa.Table.from_pylist(rows, schema=CLUSTER_SCHEMA))
    files = {file.name: {"sha256": file.sha256, "size": file.size, "rows": file.rows}}
    whole = cluster_sizes(store, files)
    assert whole.one_in == 1 and whole.bins == [Bin(2, 4, 3), Bin(4, 8, 1)]
    monkeypatch.setattr(card_samples, "CLUSTERED_DOCUMENTS", 7)
    half = cluster_sizes(store, files)
    assert half.one_in == 2 and half.bins == [Bin(2, 4, 2)], "those of even ids"


def test_sizes_are_said_in_units() -> None:
    assert [size(count) for count in (0, 1023, 2048, 5 * 2**40, 2**60)] == [
        "0 B",
        "1023 B",
        "2.0 KiB",
        "5.0 TiB",
        "1048576.0 TiB",
    ]
