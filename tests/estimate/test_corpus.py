"""Hours and limits of preparing texts: hand numbers, what must hold whatever the numbers are, and the rates' own source."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import UserError
from configs.schema.tree import FileCount
from jobs.corpus.clusters import CLUSTER_PARTS as PARTS_OF_CODE
from jobs.corpus.minhash import BANDS as BANDS_OF_CODE
from jobs.corpus.partitions import MAX_READ_BLOCKS as BLOCKS_OF_CODE
from jobs.estimate import corpus_limits as limits
from jobs.estimate import corpus_rates as rates
from jobs.estimate.corpus import CORES, DISK, FEW, NETWORK, ONE, STORE, Moved, corpus_steps, fullest, shards_steps, step
from jobs.estimate.corpus_limits import limits_of, prospect, with_enough_partitions
from jobs.estimate.corpus_rates import CorpusAssumptions
from jobs.estimate.corpus_work import CorpusWork, Nodes, ShardsWork, SourceFiles, corpus_volumes, shards_volumes
from jobs.estimate.hardware import CpuCluster, parse_assumptions, parse_cluster

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results.json"
IDEAL = {"busy_share": 1.0, "core_speed": 1.0}
TEN_TB = CorpusWork((SourceFiles("jsonl", None, 10e12, 20_000),), partitions=8)
SHARDS = ShardsWork(text=10e12, corpus_partitions=8, partitions=8, context=1024)
SHUFFLED = replace(SHARDS, corpus_partitions=9)


def nodes(count: int = 64, cores: int = 32, **assumed: float) -> Nodes:
    return Nodes(CpuCluster(count, cores), CorpusAssumptions(**{**IDEAL, **assumed}))


def seconds(work: CorpusWork | ShardsWork, where: Nodes) -> float:
    steps = corpus_steps(work, where) if isinstance(work, CorpusWork) else shards_steps(work, where)
    return sum(one.seconds for one in steps)


def test_what_bounds_a_step() -> None:
    """1,000 s of work on 4 nodes of 2 cores, moving 1 GB a node and second over the network, half of that to store or disk."""
    where = nodes(4, 2, network_bytes_per_s=1e9, store_bytes_per_s=0.5e9, disk_bytes_per_s=0.5e9)
    assert step("s", 1000, 80, where)[1:3] == (125, CORES)
    assert step("s", 1000, 4, where)[1:3] == (250, FEW)
    assert step("s", 1000, 1, where)[1:3] == (1000, ONE)
    assert step("s", 1000, 80, where, longest=16)[1:3] == (200, FEW)
    assert step("s", 1000, 80, where, Moved(network=4e12))[1:3] == (1000, NETWORK)
    assert step("s", 1000, 80, where, Moved(store=4e12))[1:3] == (2000, STORE)
    assert step("s", 1000, 80, where, Moved(disk=4e12))[1:3] == (2000, DISK)
    slow = replace(where, assumed=CorpusAssumptions(busy_share=0.5, core_speed=0.5))
    assert step("s", 1000, 80, slow).seconds == 500


def test_a_simple_corpus_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 MB of JSON lines in 8 files on one node of 2 cores, every rate 1 MB/s, nothing slow but cores: 4 s a pass; the shuffle of
    8 MB and 4,000 x 300 bytes of other columns, 2 of 8 partitions in the fullest task."""
    for name in rates.RATES:
        monkeypatch.setitem(rates.RATES, name, 1e6)
    monkeypatch.setitem(rates.KINDS, "jsonl", rates.Kind(1e6, 1.0))
    monkeypatch.setitem(rates.HELD, "row_bytes_beside_text", 300)
    work = CorpusWork((SourceFiles("jsonl", None, 8e6, 8),), partitions=8, pii="patterns")
    found = {one.name: one.seconds for one in corpus_steps(work, nodes(1, 2))}
    assert found == pytest.approx({
        "read jsonl": 4, "clean, to rows": 8, "personal data, patterns": 4,
        "shuffle by document: cut and pack": 9.2,  # one task: 9.2 MB are less than 1 GiB
        "shuffle by document: fetch and unpack": 4.6, "shuffle by document: its pieces, by the driver": 8e-6,
        "exact duplicates, split, write": 4,
    })  # fmt: skip
    one_file = replace(work, sources=(SourceFiles("jsonl", None, 8e6, 1),))
    assert corpus_steps(one_file, nodes(1, 2))[0].seconds == 8
    local = replace(work, sources=(SourceFiles("jsonl", None, 8e6, 8, local=True),))
    assert corpus_steps(local, nodes(1, 2))[0][:2] == ("sha256 of local files, by the driver", 8)


def test_shards_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 MB of text on one node of 2 cores, every rate 1 MB/s. As many shards as files are not shuffled, four times as many read
    every file four times; with no divisor in common all goes through a shuffle."""
    for name in rates.RATES:
        monkeypatch.setitem(rates.RATES, name, 1e6)
    work, where = ShardsWork(text=8e6, corpus_partitions=8, partitions=8, context=1024), nodes(1, 2)

    def found(work: ShardsWork) -> dict[str, float]:
        return {
            one.name: one.seconds for one in shards_steps(work, where) if one.name != "index of rows, by the driver"
        }

    assert found(work) == pytest.approx({"read the corpus": 4, "tokenise": 4, "pack, write": 4})
    assert found(replace(work, partitions=32))["read the corpus"] == pytest.approx(16)
    assert "shuffle by shard: cut and pack" in found(replace(work, partitions=33))
    assert shards_volumes(work, where).shuffled == 0 < shards_volumes(replace(work, partitions=33), where).shuffled


def test_volumes_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rates.HELD, "row_bytes_beside_text", 500)
    monkeypatch.setitem(rates.HELD, "packed_share", 0.4)
    monkeypatch.setitem(rates.KINDS, "jsonl", rates.Kind(1e6, 0.5))
    monkeypatch.setitem(rates.PACKINGS, "gz", rates.Packing(1e6, 4.0))
    work = CorpusWork((SourceFiles("jsonl", "gz", 1e12, 10),), partitions=8)
    found = corpus_volumes(work, nodes(2, 32, document_bytes=1000, memory_per_core_bytes=4e9))
    assert (found.documents, found.rows, found.shuffled) == (2e9, 3e12, 1.2e12)
    assert found.spilled == pytest.approx(1.2e12 - 2 * 0.3 * 128e9)
    assert found.maps == math.ceil(3e12 / 2**26)  # 8 pieces of 8 MiB
    many = corpus_volumes(replace(work, partitions=1000), nodes(2, 32, document_bytes=1000))
    assert many.maps == math.ceil(3e12 / 2**30)
    assert nodes(1, 32, memory_per_core_bytes=100e9).object_store_bytes == 200e9


@pytest.mark.parametrize("partitions", [8, 64, 1000, 10_000])
def test_the_fullest_task_of_ray_datas_own_shuffle(partitions: int) -> None:
    from ray.data._internal.arrow_ops.transform_pyarrow import hash_partition

    table = pa.table({"partition": pa.array(np.arange(partitions), pa.int32())})
    tasks = hash_partition(table, hash_cols=["partition"], num_partitions=partitions).values()
    assert abs(max(task.num_rows for task in tasks) - fullest(partitions)) <= 2
    assert fullest(1) == 1 and fullest(8) == 2


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([2, 4, 8, 16, 32, 64, 128, 256]), st.sampled_from([8, 200, 5000]), st.booleans())
def test_more_nodes_are_never_slower(count: int, partitions: int, near: bool) -> None:
    for work in (
        replace(TEN_TB, partitions=partitions, near=near),
        replace(SHARDS, partitions=partitions),
        replace(SHUFFLED, partitions=partitions),
    ):
        assert seconds(work, nodes(2 * count)) <= seconds(work, nodes(count)) * (1 + 1e-9)
        assert seconds(work.scaled(2), nodes(count)) >= seconds(work, nodes(count))


def test_it_saturates() -> None:
    """2,000 tasks read at most, and 8 partitions are 8 tasks: beyond that more cores wait."""
    _, clean, *_, write = corpus_steps(TEN_TB, nodes(64))
    assert (clean.by, write.by) == (FEW, FEW)
    assert corpus_steps(TEN_TB, nodes(640))[1].seconds == clean.seconds
    assert corpus_steps(TEN_TB, nodes(32))[1].by == CORES


def test_ten_terabytes_on_64_nodes() -> None:
    ahead = prospect(TEN_TB, nodes())
    first = ahead.broken[0]
    assert first.what == limits.PARTITION and first.breaks_from < 1e12
    assert first.mend == f"`partitions: {ahead.mended.partitions}`" and ahead.mended.partitions > 1000
    assert not {limits.PARTITION, limits.STRINGS} & {
        one.what for one in limits_of(ahead.mended, nodes()) if one.needs > one.has
    }
    of_rows = prospect(SHARDS, nodes())
    assert of_rows.broken[0].what == limits.PARTITION and of_rows.broken[0].mend.startswith("`shards: ")
    assert any(one.what == limits.INDEX for one in of_rows.broken)
    near = {one.what for one in prospect(replace(TEN_TB, near=True), nodes()).broken}
    assert limits.CLUSTER in near and limits.CLUSTERS not in near


def test_a_small_corpus_breaks_nothing() -> None:
    ahead = prospect(TEN_TB.scaled(1e-4), nodes())
    assert ahead.broken == [] and ahead.mended.partitions == 8
    assert ahead.next.breaks_from > 1e9 and ahead.next.needs <= ahead.next.has


@pytest.mark.parametrize("work", [replace(TEN_TB, near=True), SHARDS, SHUFFLED])
def test_the_size_at_which_a_limit_is_met(work: CorpusWork | ShardsWork) -> None:
    for number, limit in enumerate(limits_of(work, nodes())):
        for factor, broken in ((0.97, False), (1.03, True)):
            there = limits_of(work.scaled(factor * limit.breaks_from / work.size), nodes())[number]
            assert (there.needs > there.has) is broken, limit


def test_hashes_in_a_column() -> None:
    """2 GiB of 64 bytes are 33.5 M documents in each of 8 partitions, of 2,000 bytes each."""
    found = {one.what: one for one in limits_of(TEN_TB, nodes())}[limits.STRINGS]
    text = found.breaks_from * rates.KINDS["jsonl"].text_share
    assert text == pytest.approx(2**31 / 64 * 8 * 2000, rel=0.02)


def test_tasks_of_a_node_hold_their_partitions_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small partitions: every core has one. Large ones: Ray lets as many run as twice what came to them fits into 70 %."""
    met = 1 / (1 - math.exp(-1))
    where = nodes(1, 4, memory_per_core_bytes=25e9)  # 100 GB
    assert limits.held_by_tasks(1e9, 3.0, 1000, where) == pytest.approx(4 * 1e6 * (met + 1 + 3))
    tasks = 70e9 / (2 * met * 10e9)
    assert 1 < tasks < 4
    held = 10e9 * max(tasks * (met + 4), fullest(100) + 4)
    assert limits.held_by_tasks(1000e9, 3.0, 100, where) == pytest.approx(held)


def test_enough_partitions_are_the_fewest_that_are() -> None:
    enough = with_enough_partitions(TEN_TB, nodes()).partitions
    steps = [int(base * 10**power) for power in range(6) for base in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)]
    fewer = replace(TEN_TB, partitions=steps[steps.index(enough) - 1])
    assert any(one.needs > one.has for one in limits_of(fewer, nodes()) if one.what in limits.BY_PARTITIONS)
    assert with_enough_partitions(TEN_TB.scaled(1e6), nodes()).partitions == limits.MOST_PARTITIONS
    for text in (1e11, 1e12, 2.5e12):
        shards = with_enough_partitions(ShardsWork(text, 60_000, 8, 1024), nodes())
        assert shards.reads == 1 and shards.partitions < 60_000
        less = max(number for number in range(8, shards.partitions) if 60_000 % number == 0)
        fewer = {one.what: one for one in limits_of(replace(shards, partitions=less), nodes())}
        assert any(fewer[what].needs > fewer[what].has for what in (limits.PARTITION, limits.TOKENS))


def test_numbers_of_the_code_are_those_of_the_code() -> None:
    assert (rates.BANDS, rates.MAX_READ_BLOCKS, rates.CLUSTER_PARTS) == (BANDS_OF_CODE, BLOCKS_OF_CODE, PARTS_OF_CODE)
    assert FileCount.__metadata__[0].metadata[1].le == limits.MOST_PARTITIONS


HELD_AS = {
    "row_bytes_beside_text": "table", "packed_share": "shuffle_map", "stored_share": "write", "bytes_a_token": "tokenise",
    "stored_bytes_a_token": "pack",
}  # fmt: skip
HELD_BY_ANOTHER_NAME = {
    "shard_row_bytes_beside_text": ("shard_read", "row_bytes_beside_text"), "kept_share": ("keep", "stored_share"),
    "signature_file_bytes": ("signatures", "stored_bytes_a_document"), "write_peak": ("write", "peak_over_rows"),
    "describe_peak": ("describe", "peak_over_rows"), "pack_peak": ("pack", "peak_over_rows"),
    "pairs_bytes_a_key": ("pairs_peak", "bytes_a_key"), "cluster_bytes_a_document": ("cluster", "bytes_a_document"),
    "clusters_file_bytes_a_row": ("clusters_read", "stored_bytes_a_row"), "clusters_bytes_a_row": ("clusters_read", "bytes_a_row"),
    "index_bytes_a_row": ("index", "bytes_a_row"), "rank_bytes_a_row": ("rank", "bytes_a_row"),
    "bytes_a_ref": ("shard_refs", "bytes_a_ref"),
}  # fmt: skip


def test_numbers_are_those_that_were_measured() -> None:
    measured = json.loads(RESULTS.read_text())["corpus_speed"]
    for name, rate in rates.RATES.items():
        if name != "pii_ner":
            assert rate == next(value for key, value in measured[name].items() if key.endswith("_per_s")), name
    places = {name: (step, name) for name, step in HELD_AS.items()} | HELD_BY_ANOTHER_NAME
    assert {name: measured[one][other] for name, (one, other) in places.items()} == rates.HELD
    paper = measured["pdf"]
    assert rates.KINDS["pdf"] == (
        paper["documents_per_s"] * rates.PDF_BYTES,
        paper["text_bytes_a_document"] / rates.PDF_BYTES,
    )
    for kind, found in rates.KINDS.items():
        if kind != "pdf":
            assert tuple(found) == (measured[kind]["bytes_per_s"], measured[kind]["text_share"]), kind
    for kind, found in rates.PACKINGS.items():
        assert tuple(found) == (measured[kind]["bytes_per_s"], measured[kind]["ratio"]), kind


def test_shards_hold_tokens_and_rows() -> None:
    found = shards_volumes(SHARDS, nodes())
    assert found.documents == 5e9 and found.rows > 10e12
    longer = replace(SHARDS, context=8192)
    index = [{one.what: one for one in limits_of(work, nodes())}[limits.INDEX].needs for work in (SHARDS, longer)]
    assert index[0] == pytest.approx(8 * index[1])


def test_a_cluster_of_cores_by_its_name() -> None:
    assert parse_cluster("64x32CPU") == parse_cluster("64x32cpu") == CpuCluster(64, 32)
    assert str(CpuCluster(64, 32)) == "64x32CPU"
    for wrong in ("64xCPU", "0x32CPU", "64x0CPU", "32CPU"):
        with pytest.raises(UserError, match="nodes and the cores of each, e.g. 64x32CPU"):
            parse_cluster(wrong)
    assert parse_assumptions(["corpus_bytes=10e12"], CorpusAssumptions).corpus_bytes == 10e12
    for wrong, said in (
        ("corpus_bytes=0", "above 0"),
        ("busy_share=2", "at most 1"),
        ("compute_share=1", "known: corpus_bytes"),
    ):
        with pytest.raises(UserError, match=said):
            parse_assumptions([wrong], CorpusAssumptions)
