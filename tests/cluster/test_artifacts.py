"""Artifacts and leases: one writer, records last, nothing of an old writer gets in; on disk and on S3 alike."""

import json
import multiprocessing
import os
import signal
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from queue import Empty

import pytest

from cluster import kill_points
from cluster.artifacts import (
    ArtifactNotFound,
    ancestors,
    artifact_key,
    attempt,
    find_artifact,
    find_named,
    list_artifacts,
)
from cluster.collect import collect
from cluster.lease import LeaseHeld, LeaseLost, acquire, read_lease
from cluster.storage import Store

RECORD = {"name": "toy", "parents": {}}
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(params=["disk", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(str(tmp_path)) if request.param == "disk" else request.getfixturevalue("s3_store")


def test_an_artifact_is_there_once_its_record_is(store: Store) -> None:
    with attempt(store, "cpt", "k1") as own:
        own.content.write("model/weights", b"123")
        assert find_artifact(store, "cpt", "k1") is None
        own.commit(RECORD)
    found = find_artifact(store, "cpt", "k1")
    assert found is not None
    assert found.content.read("model/weights") == b"123"
    assert found.record["files"] == [{"name": "model/weights", "size": 3}]


def test_a_second_writer_is_told_who_holds_it(store: Store) -> None:
    refused = pytest.raises(LeaseHeld, match=rf"pid {os.getpid()} \(attempt 1")
    with attempt(store, "cpt", "k1"), refused, attempt(store, "cpt", "k1"):
        pass
    with attempt(store, "cpt", "k1") as second:
        assert second.number == 2


def hold_and_report(store: Store, queue: "multiprocessing.Queue[str]", together: Barrier) -> None:
    together.wait(60)
    try:
        with attempt(store, "cpt", "race"):
            queue.put("held")
            together.wait(60)  # let go only when everybody has tried
    except LeaseHeld:
        queue.put("refused")
        together.wait(60)


def test_of_many_starting_together_one_writes(store: Store) -> None:
    queue, together = SPAWN.Queue(), SPAWN.Barrier(5)
    processes = [SPAWN.Process(target=hold_and_report, args=(store, queue, together)) for _ in range(5)]
    for process in processes:
        process.start()
    answers = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(answers) == ["held", "refused", "refused", "refused", "refused"]


def write_until_killed(store: Store, kill_at: str) -> None:
    os.environ[kill_points.ENVIRONMENT] = kill_at
    with attempt(store, "cpt", "k1") as own:
        own.content.write("model/weights", b"123")
        own.commit(RECORD)


def test_killed_between_data_and_record_leaves_no_artifact_and_blocks_nobody(store: Store) -> None:
    process = SPAWN.Process(target=write_until_killed, args=(store, "after_data_before_record"))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert find_artifact(store, "cpt", "k1") is None
    began = time.monotonic()
    with attempt(store, "cpt", "k1") as own:  # the dead process is seen at once on its own host
        assert own.number == 2
        own.content.write("model/weights", b"456")
        own.commit(RECORD)
    assert time.monotonic() - began < 10
    found = find_artifact(store, "cpt", "k1")
    assert found is not None and found.content.read("model/weights") == b"456"
    assert [item.path for item in collect(store).leftovers] == ["artifacts/cpt-k1/attempts/000001"]


def test_a_lease_that_expired_under_a_live_writer_fences_it(store: Store) -> None:
    directory = store.below("artifacts", "cpt-k1")
    old = acquire(directory, ttl_s=500, renew_s=1000)  # a writer whose renewals do not get through
    with pytest.raises(LeaseHeld):
        acquire(directory)
    record = directory.read_json("lease/000001.json")
    assert 0 < record["expires_at"] - time.time() <= 500
    directory.write_json("lease/000001.json", {**record, "expires_at": time.time() - 1})  # they have passed
    new = acquire(directory)
    assert new.attempt == old.attempt + 1
    with pytest.raises(LeaseLost, match="attempt 1 was taken for dead, attempt 2 writes now"):
        old.check()
    new.check()
    new.release()
    old._stop.set()


def test_an_old_writer_cannot_replace_a_record(store: Store) -> None:
    with attempt(store, "cpt", "k1") as own:
        own.content.write("a", b"1")
        own.commit(RECORD)
        first = find_artifact(store, "cpt", "k1")
        own.commit({**RECORD, "name": "late"})
    assert find_artifact(store, "cpt", "k1") == first


def hold_for_ever(store: Store, queue: "multiprocessing.Queue[int]") -> None:
    with attempt(store, "cpt", "k1"):
        queue.put(os.getpid())
        signal.pause()


def test_a_killed_holder_frees_the_lease_on_its_host(tmp_path: Path) -> None:
    store, queue = Store(str(tmp_path)), SPAWN.Queue()
    process = SPAWN.Process(target=hold_for_ever, args=(store, queue))
    process.start()
    try:
        pid = queue.get(timeout=60)
    except Empty:
        process.kill()
        raise
    with pytest.raises(LeaseHeld, match=f"pid {pid}"), attempt(store, "cpt", "k1"):
        pass
    os.kill(pid, signal.SIGKILL)
    process.join()
    with attempt(store, "cpt", "k1") as own:
        assert own.number == 2


def test_a_lease_of_another_host_counts_until_it_expires(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    lease = acquire(store, ttl_s=60)
    lease.release()
    record = store.read_json("lease/000001.json")
    elsewhere = {**record, "released": False, "host": "elsewhere/00000000", "owner": "elsewhere pid 1", "pid": 1}
    store.write("lease/000001.json", json.dumps({**elsewhere, "expires_at": time.time() + 60}).encode())
    with pytest.raises(LeaseHeld, match="elsewhere pid 1"):
        acquire(store)
    store.write("lease/000001.json", json.dumps({**elsewhere, "expires_at": time.time() - 1}).encode())
    taken = acquire(store)
    assert taken.attempt == 2
    taken.release()
    newest = read_lease(store)
    assert newest is not None and newest.released


def test_keys_depend_on_everything_that_decides_the_result() -> None:
    key = artifact_key("cpt", 1, {"steps": 4}, {"model": "model-a"})
    others = [
        artifact_key("sft", 1, {"steps": 4}, {"model": "model-a"}),
        artifact_key("cpt", 2, {"steps": 4}, {"model": "model-a"}),
        artifact_key("cpt", 1, {"steps": 5}, {"model": "model-a"}),
        artifact_key("cpt", 1, {"steps": 4}, {"model": "model-b"}),
    ]
    assert len({key, *others}) == 5
    assert key == artifact_key("cpt", 1, dict(steps=4), {"model": "model-a"})  # noqa: C408 - another way to say the same


def test_names_find_the_newest_and_lineage_walks_up(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for kind, key, name, parents in (
        ("model", "aaaa1111", "base", {}),
        ("cpt", "bbbb2222", "cpt", {"model": "model-aaaa1111"}),
        ("cpt", "cccc3333", "cpt", {"model": "cpt-bbbb2222"}),
    ):
        with attempt(store, kind, key) as own:
            own.content.write("x", b"1")
            own.commit({"name": name, "parents": parents})
    newest = find_named(store, "cpt")
    assert newest.key == "cccc3333"
    assert find_named(store, "bbbb").key == "bbbb2222"
    assert [artifact.key for artifact in ancestors(store, newest)] == ["bbbb2222", "aaaa1111"]
    assert len(list_artifacts(store)) == 3
    with pytest.raises(ArtifactNotFound, match=r"'nothing'. There is: base \(aaaa1111\), cpt \(bbbb2222\)"):
        find_named(store, "nothing")
