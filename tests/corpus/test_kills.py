"""A corpus that is compared with itself, and everything that works on it killed once in every pass: always the same bytes.

    read -> sorted out -> pairs -> clusters -> shared paragraphs -> kept        (jobs/corpus/comparing.py, clusters.py)

One cluster of two raylets for all tests. Its workers come by all of their kill points, which are disarmed while KILLED has a
file of that name; drivers are told by their own environment.
"""

import hashlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster

from cluster import kill_points
from cluster.artifacts import attempt, find_artifact
from cluster.storage import Store
from configs.schema.corpus import CorpusStage
from jobs.corpus.collect import build_corpus
from jobs.corpus.partitions import Progress
from tests.corpus.sources import write_jsonl, write_pubmed
from tests.world.hosts import QUICK_HEALTH_CHECKS
from tests.world.s3 import S3Server

pytestmark = pytest.mark.cluster

IN_WORKERS = (
    "corpus_reading",
    "corpus_sorting",
    "corpus_pairing",
    "corpus_clustering",
    "corpus_paragraphs",
    "corpus_keeping",
)
PARTITIONS = 5
IN_DRIVERS = (
    "partition_reported:1",
    "corpus_sorted",
    "corpus_clustered",
    # The passes before had all of theirs.
    f"partition_reported:{2 * PARTITIONS + 2}",
    f"partition_reported:{3 * PARTITIONS + 2}",
    "after_data_before_record",
)
TEXTS, COPIES = 60, 12
VOCABULARY = [f"word{number}" for number in range(2000)]
KEY = "0123456789abcdef"
BUILD_S = 240


@dataclass(frozen=True)
class World:
    """A cluster, the stage that is built on it, and the digests of its files where nothing was killed."""

    cluster: Cluster
    stage: CorpusStage
    killed: Path
    unbroken: dict[str, str]

    def killed_places(self) -> set[str]:
        return {path.name for path in self.killed.iterdir()}


def write_stage(directory: Path) -> CorpusStage:
    """Texts, near-copies of some, an exact copy, bad rows, and a second format: all that a corpus sorts apart."""
    generator = np.random.default_rng(7)
    texts = [[str(word) for word in generator.choice(VOCABULARY, 80)] for _ in range(TEXTS)]
    notice = "\n\n" + "Whoever names its authors may use this text for every purpose there is. " * 2
    rows: list[object] = [{"text": " ".join(words) + notice * (number % 3)} for number, words in enumerate(texts)]
    copies: list[object] = [{"text": " ".join([*words[:-1], "changed"])} for words in texts[:COPIES]]
    half = len(rows) // 2
    write_jsonl(directory / "texts" / "a.jsonl", rows[:half])
    write_jsonl(directory / "texts" / "b.jsonl", [*rows[half:], rows[0], {"text": 7}, {"text": "short"}])
    write_jsonl(directory / "copies" / "a.jsonl", copies)
    write_pubmed(directory / "pubmed" / "a.xml.gz")
    sources = {name: {"path": str(directory / name), "licence": "CC0-1.0"} for name in ("texts", "copies", "pubmed")}
    return CorpusStage.model_validate(
        {
            "stage": "corpus", "sources": sources, "cleaning": {"minimum_characters": 20}, "heldout_fraction": 0.3,
            "partitions": PARTITIONS, "near_duplicates": {}, "repeated_paragraphs": {}, "pii": {"tier": "patterns"},
        }
    )  # fmt: skip


def silent(label: str, done: int, total: int) -> None:
    assert 0 <= done <= total, (label, done, total)


@contextmanager
def joined(cluster: Cluster) -> Iterator[None]:
    """A job of its own: its workers are new, so what they come by is counted from the start."""
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


def digests(store: Store) -> dict[str, str]:
    """Of all files but collected.parquet, which says when the inputs were found."""
    names = [file.name for file in store.files() if file.name != "collected.parquet"]
    return {name: hashlib.sha256(store.read(name)).hexdigest() for name in names}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, s3: S3Server) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("kills")
    killed = directory / "killed"
    killed.mkdir()
    for place in IN_WORKERS:
        (killed / place).touch()
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {**s3.environment(), **QUICK_HEALTH_CHECKS}.items():
            environment.setenv(name, value)
        with pytest.MonkeyPatch.context() as armed:
            armed.setenv(kill_points.ENVIRONMENT, ",".join(IN_WORKERS))
            armed.setenv(kill_points.KILLED, str(killed))
            cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
            try:
                cluster.add_node(num_cpus=1)
                stage = write_stage(directory)
                with joined(cluster):
                    build_corpus(stage, Store(str(directory / "unbroken")), silent)
                yield World(cluster, stage, killed, digests(Store(str(directory / "unbroken"))))
            finally:
                cluster.shutdown()


def test_the_unbroken_corpus_has_something_of_everything(world: World) -> None:
    folders = {name.partition("/")[0] for name in world.unbroken}
    assert folders == {"train", "heldout", "quarantine", "near", "manifest.json"}
    assert world.killed_places() == set(IN_WORKERS)


@pytest.mark.chaos
def test_a_worker_killed_in_every_pass_on_s3(world: World, s3: S3Server) -> None:
    for place in IN_WORKERS:
        (world.killed / place).unlink()
    output = Store(f"s3://{s3.new_bucket()}/corpus")
    with joined(world.cluster):
        build_corpus(world.stage, output, silent)
    assert world.killed_places() == set(IN_WORKERS)
    assert digests(output) == world.unbroken


@pytest.mark.chaos
def test_a_raylet_killed_in_every_pass(world: World, tmp_path: Path) -> None:
    """Each time with a part of the pass reported, and with all that the raylet held of the others lost."""
    killed_in: list[str] = []

    def kill_one(label: str, done: int, total: int) -> None:
        silent(label, done, total)
        # The first and the last pass over the documents have the label "corpus".
        begun = {"near-duplicates": 1, "repeated paragraphs": 2, "corpus": 0 if not killed_in else 3}
        if done == 1 and len(killed_in) == begun[label]:
            killed_in.append(label)
            replace_raylet(world.cluster)

    with joined(world.cluster):
        build_corpus(world.stage, Store(str(tmp_path)), kill_one)
    assert killed_in == ["corpus", "near-duplicates", "repeated paragraphs", "corpus"]
    assert digests(Store(str(tmp_path))) == world.unbroken


def replace_raylet(cluster: Cluster) -> None:
    """A new one first: a corpus needs two CPUs to get on."""
    lost = next(iter(cluster.worker_nodes))
    cluster.add_node(num_cpus=1)
    cluster.remove_node(lost, allow_graceful=False)


def test_a_driver_killed_at_every_point(world: World, tmp_path: Path) -> None:
    """Every one is killed at the next point; the last one is not, and none has anything of those before it."""
    store = Store(str(tmp_path))
    for place in IN_DRIVERS:
        assert drive(world, store, {kill_points.ENVIRONMENT: place}) == -signal.SIGKILL, place
        assert find_artifact(store, "corpus", KEY) is None, place
    assert drive(world, store, {}) == 0
    artifact = find_artifact(store, "corpus", KEY)
    assert artifact is not None and artifact.record["content"] == f"attempts/{len(IN_DRIVERS) + 1:06d}"
    assert digests(artifact.content) == world.unbroken


def drive(world: World, store: Store, environment: dict[str, str]) -> int | None:
    """A driver of its own; its exit code."""
    arguments = (world.cluster.address, world.stage.model_dump(mode="json"), store.root, environment)
    process = get_context("spawn").Process(target=build_as_driver, args=arguments)
    process.start()
    process.join(BUILD_S)
    return process.exitcode


def build_as_driver(address: str, values: dict[str, Any], root: str, environment: dict[str, str]) -> None:
    for name in (kill_points.ENVIRONMENT, kill_points.KILLED):
        os.environ.pop(name, None)
    os.environ.update(environment)
    ray.init(address=address, log_to_driver=False)
    progress: Progress = silent
    with attempt(Store(root), "corpus", KEY) as own:
        build_corpus(CorpusStage.model_validate(values), own.content, progress)
        own.commit({"name": "papers", "parents": {}})
    ray.shutdown()
