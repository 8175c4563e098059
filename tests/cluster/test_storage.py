"""One contract for both kinds of store."""

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs
import pytest

from cluster.storage import FileInfo, Patience, StorageError, Store, check_store, open_store
from tests.world.conditions import kill_process

CHECKOUT = Path(__file__).resolve().parents[2]

BIG = 50 * 2**20


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.cluster)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return request.getfixturevalue("s3_store") if request.param == "s3" else Store(str(tmp_path / "store"))


def test_what_is_written_is_read(store: Store) -> None:
    store.write("a/b.bin", b"one")
    assert store.read("a/b.bin") == store.read("a", "b.bin") == b"one"
    store.write("a/b.bin", b"")
    assert store.read("a/b.bin") == b""
    store.write_json("c.json", {"b": [1, None], "a": "é"})
    assert store.read_json("c.json") == {"a": "é", "b": [1, None]}
    assert store.read("c.json") == '{\n  "a": "é",\n  "b": [\n    1,\n    null\n  ]\n}\n'.encode()
    with store.open("c.json") as file:
        file.seek(2)
        assert file.read(5) == b'  "a"'


def test_what_is_not_there(store: Store, tmp_path: Path) -> None:
    assert not store.exists("nothing") and store.names("nothing") == [] and store.files("nothing") == []
    store.remove("nothing")
    for read in (store.read, store.read_json, store.open):
        with pytest.raises(FileNotFoundError):
            read("nothing")
    with pytest.raises(FileNotFoundError):
        store.get("nothing", tmp_path / "out" / "local")
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(FileNotFoundError):
        store.put(tmp_path / "missing", "target")
    assert not store.exists("target")


def test_listing(store: Store) -> None:
    for name in ("runs/b/2.txt", "runs/b/10.txt", "runs/a.txt", "runs.txt", "runs-other/c.txt"):
        store.write(name, name.encode())
    assert store.names("runs") == ["a.txt", "b"]
    assert store.names() == ["runs", "runs-other", "runs.txt"]
    assert store.files("runs") == [FileInfo("a.txt", 10), FileInfo("b/10.txt", 13), FileInfo("b/2.txt", 12)]
    assert store.below("runs", "b").files() == [FileInfo("10.txt", 13), FileInfo("2.txt", 12)]
    assert store.exists("runs") and store.exists("runs/b") and not store.exists("run")
    store.remove("runs")
    assert store.names() == ["runs-other", "runs.txt"]
    store.remove("runs.txt")
    assert store.names() == ["runs-other"]


@pytest.mark.cluster
def test_directory_markers_of_other_programs_are_no_files(s3_store: Store) -> None:
    filesystem, path = pyarrow.fs.FileSystem.from_uri(s3_store.path("runs"))
    filesystem.create_dir(f"{path}/ray/group", recursive=True)
    assert s3_store.files() == [] and s3_store.names("runs") == ["ray"]
    s3_store.write("runs/ray/file", b"1")
    assert s3_store.files("runs") == [FileInfo("ray/file", 1)]
    assert s3_store.names("runs", "ray") == ["file", "group"] and s3_store.names("runs/ray/group") == []
    s3_store.remove("runs")
    assert s3_store.names() == []


def test_local_files_go_in_and_out(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3 * 2**20 + 1))
    store.put(source, "deep/er/file")
    store.get("deep/er/file", tmp_path / "new" / "directory" / "copy")
    assert (tmp_path / "new" / "directory" / "copy").read_bytes() == source.read_bytes() == store.read("deep/er/file")
    assert store.names("deep/er") == ["file"]


def test_a_store_travels(store: Store) -> None:
    store.write("a", b"1")
    copy = pickle.loads(pickle.dumps(store))
    assert copy == store and copy.read("a") == b"1" and copy.below("b") == store.below("b")


def test_create_decides_once(store: Store) -> None:
    assert store.create("lease", b"first")
    assert not store.create("lease", b"second")
    assert store.read("lease") == b"first"
    assert store.create("lease", b"first"), "a writer recognises its own content, as after an answer that was lost"
    assert store.names() == ["lease"]


RACE = """
import sys, time
from cluster.storage import Store
store, me = Store(sys.argv[1]), sys.argv[2]
store.write(f"ready/{me}", b"")
while not store.exists("go"): time.sleep(0.01)
print(*[round for round in range(20) if store.create(f"lease/{round}", me.encode())])
"""


@pytest.mark.cluster
def test_create_succeeds_for_one_of_eight_processes(store: Store) -> None:
    racers = [_python(RACE, store.root, str(number)) for number in range(8)]
    try:
        deadline = time.monotonic() + 60
        while len(store.names("ready")) < 8:
            assert time.monotonic() < deadline, f"only {store.names('ready')} of eight racers are ready"
            time.sleep(0.05)
        store.write("go", b"")
        won = [[int(word) for word in racer.communicate(timeout=60)[0].split()] for racer in racers]
    finally:
        for racer in racers:
            kill_process(racer)
    assert sorted(number for rounds in won for number in rounds) == list(range(20))
    for number, rounds in enumerate(won):
        assert all(store.read("lease", str(round)) == str(number).encode() for round in rounds)


def test_check_store_leaves_nothing(store: Store) -> None:
    check_store(store)
    assert store.names() == []


@pytest.fixture
def one_mebibyte_disk(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "disk"
    mount.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_a_full_disk_is_reported_and_leaves_no_part(one_mebibyte_disk: Path, tmp_path: Path) -> None:
    store = Store(str(one_mebibyte_disk))
    local = tmp_path / "local"
    local.write_bytes(bytes(2 * 2**20))
    attempts = (
        lambda: store.write("file", local.read_bytes()),
        lambda: store.create("file", local.read_bytes()),
        lambda: store.put(local, "file"),
        lambda: Store(str(tmp_path)).get("local", one_mebibyte_disk / "file"),
    )
    for attempt in attempts:
        with pytest.raises(StorageError, match=r"No space left.*df -h"):
            attempt()
        assert list(one_mebibyte_disk.iterdir()) == []
    check_store(store)


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="is a file: set `store`"):
        check_store(Store(str(tmp_path / "file" / "below")))


def test_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_store("artifacts/").root == str(tmp_path / "artifacts")
    assert open_store("s3://bucket/a/").root == "s3://bucket/a"
    assert open_store("s3://bucket/a").below("b", "c").path("d") == "s3://bucket/a/b/c/d"
    assert Store("s3://bucket", Patience.PROBE).below("a").patience is Patience.PROBE


WRITE_FOREVER = """
import sys
from pathlib import Path
from cluster.storage import Store
store, data = Store(sys.argv[1]), sys.argv[2].encode() * int(sys.argv[3])
local = Path(sys.argv[4]); local.write_bytes(data)
print("writing", flush=True)
for number in range(1_000_000):
    store.write(f"written/{number}", data)
    store.put(local, f"put/{number}")
"""


@pytest.mark.cluster
@pytest.mark.parametrize("after_s", [0.02, 0.15, 0.4])
def test_a_killed_writer_leaves_whole_files_or_none(store: Store, tmp_path: Path, after_s: float) -> None:
    writer = _python(WRITE_FOREVER, store.root, "x", str(BIG), str(tmp_path / "local"))
    try:
        assert writer.stdout is not None and writer.stdout.readline() == "writing\n"
        time.sleep(after_s)  # The moment of the kill: any is right, these fall into different writes.
    finally:
        kill_process(writer)
    assert {info.size for info in store.files()} <= {BIG}
    for info in store.files():
        assert store.read(info.name).count(b"x") == BIG


def _python(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True, cwd=CHECKOUT
    )
