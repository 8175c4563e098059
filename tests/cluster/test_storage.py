"""One contract for both kinds of store, and what happens to it when disk, network or a writer fails."""

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
from tests.world.fault_proxy import Action, Fault, FaultProxy, fault_proxy
from tests.world.s3 import Credentials, S3Server, s3_environment

CHECKOUT = Path(__file__).resolve().parents[2]
BIG = 50 * 2**20


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.cluster)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return request.getfixturevalue("s3_store") if request.param == "s3" else Store(str(tmp_path / "store"))


@pytest.fixture
def proxy(s3: S3Server, s3_store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A fault proxy through which `s3_store` speaks to its server."""
    with fault_proxy(s3.url) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        yield running


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


@pytest.mark.cluster
@pytest.mark.parametrize("action", [Action.KILL_BEFORE, Action.KILL_AFTER])
def test_a_writer_killed_at_its_put(s3_store: Store, proxy: FaultProxy, tmp_path: Path, action: Action) -> None:
    writer = _python(WRITE_FOREVER, s3_store.root, "x", "1000", str(tmp_path / "local"))
    proxy.add(Fault("PUT", action, path="put/2$", pid=writer.pid))
    writer.communicate(timeout=60)
    assert writer.returncode == -9
    assert s3_store.names("put") == (["0", "1"] if action is Action.KILL_BEFORE else ["0", "1", "2"])


FAULTS = {
    "500": {"action": Action.STATUS, "status": 500, "times": 2},
    "503": {"action": Action.STATUS, "status": 503, "times": 2},
    "slow": {"action": Action.SLOW, "delay_s": 1.0},
    "cut request": {"action": Action.CUT_REQUEST, "times": 2},
    "cut answer": {"action": Action.CUT_ANSWER, "times": 2},
}


@pytest.mark.cluster
@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("verb", ["write", "create", "put"])
def test_faults_in_writing_are_ridden_out(
    s3_store: Store, proxy: FaultProxy, tmp_path: Path, verb: str, name: str
) -> None:
    fault = Fault(method="PUT", **FAULTS[name])
    proxy.add(fault)
    _write_by(verb, s3_store, os.urandom(2**20), tmp_path / "local")
    assert proxy.hits() == [fault.times]
    assert s3_store.read("file") == (tmp_path / "local").read_bytes()


@pytest.mark.cluster
@pytest.mark.parametrize("name", ["500", "503", "slow", "cut answer"])
@pytest.mark.parametrize("verb", ["read", "get"])
def test_faults_in_reading_are_ridden_out(
    s3_store: Store, proxy: FaultProxy, tmp_path: Path, verb: str, name: str
) -> None:
    data = os.urandom(2**20)
    s3_store.write("file", data)
    fault = Fault(method="GET", **FAULTS[name])
    proxy.add(fault)
    assert _read_by(verb, s3_store, tmp_path / "local") == data
    assert proxy.hits() == [fault.times]


@pytest.mark.cluster
def test_a_conflict_of_conditional_writes_is_tried_again(s3_store: Store, proxy: FaultProxy) -> None:
    proxy.add(Fault("PUT", Action.STATUS, status=409, times=2))
    assert s3_store.create("lease", b"mine")
    assert proxy.hits() == [2] and s3_store.read("lease") == b"mine"


MANY_PARTS = 110 * 2**20
"""s3fs splits from 50 MiB when reading and from 100 MiB when writing."""


@pytest.mark.cluster
@pytest.mark.parametrize(("verb", "requests"), [("write", "PUT"), ("put", "PUT"), ("write", "POST"), ("put", "POST")])
def test_a_cut_in_writing_many_parts(
    s3_store: Store, proxy: FaultProxy, tmp_path: Path, verb: str, requests: str
) -> None:
    """PUT is a part; POST begins the upload and ends it, and the answer to its end is lost here."""
    proxy.add(Fault(requests, Action.CUT_ANSWER, path="file", first=2))
    _write_by(verb, s3_store, os.urandom(2**20) * (MANY_PARTS // 2**20), tmp_path / "local")
    assert proxy.hits() == [1]
    assert s3_store.read("file") == (tmp_path / "local").read_bytes()


@pytest.mark.cluster
@pytest.mark.parametrize("verb", ["read", "get"])
def test_a_cut_in_reading_many_parts(s3_store: Store, proxy: FaultProxy, tmp_path: Path, verb: str) -> None:
    data = os.urandom(2**20) * (MANY_PARTS // 2**20)
    s3_store.write("file", data)
    proxy.add(Fault("GET", Action.CUT_ANSWER, path="file"))
    assert _read_by(verb, s3_store, tmp_path / "local") == data
    assert proxy.hits() == [1]


@pytest.mark.cluster
def test_lasting_faults_are_reported(s3_store: Store, proxy: FaultProxy) -> None:
    proxy.add(Fault("PUT", Action.STATUS, status=500, times=1000))
    began = time.monotonic()
    with pytest.raises(StorageError, match="AWS_ENDPOINT_URL"):
        check_store(s3_store)
    assert time.monotonic() - began < 30


@pytest.mark.cluster
def test_an_endpoint_that_never_answers_is_reported(s3_store: Store, proxy: FaultProxy) -> None:
    proxy.add(Fault("PUT", Action.HOLD_BEFORE, times=1000))
    began = time.monotonic()
    with pytest.raises(StorageError, match="AWS_ENDPOINT_URL"):
        check_store(s3_store)
    assert time.monotonic() - began < 30
    proxy.clear()


@pytest.mark.cluster
@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://192.0.2.1:9000", "http://no-such-host.invalid:9000"])
def test_an_unreachable_endpoint_is_reported(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused, without an answer (192.0.2.0/24 is reserved for documentation), without a name."""
    for name, value in s3_environment(url).items():
        monkeypatch.setenv(name, value)
    began = time.monotonic()
    with pytest.raises(StorageError, match=f"{url}.*Check AWS_ENDPOINT_URL"):
        check_store(Store("s3://bucket/store"))
    assert time.monotonic() - began < 30


@pytest.mark.cluster
def test_wrong_and_missing_credentials_are_reported(
    s3: S3Server, s3_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3.required_credentials() as right:
        for wrong in (Credentials("AKIAWRONG", right.secret_key), Credentials(right.access_key, "wrong")):
            _use(s3.environment(wrong), monkeypatch)
            for attempt in (check_store, Store.names, lambda store: store.exists("a")):
                with pytest.raises(StorageError, match="AWS_ACCESS_KEY_ID"):
                    attempt(Store(s3_store.root))
        _use(s3.environment(right), monkeypatch)
        check_store(Store(s3_store.root))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageError, match="AWS_ACCESS_KEY_ID"):
        check_store(Store(s3_store.root))


@pytest.mark.cluster
def test_a_missing_bucket_is_reported(s3_store: Store) -> None:
    nowhere = Store("s3://no-such-bucket/store")
    for attempt in (lambda: check_store(nowhere), lambda: nowhere.write("a", b""), lambda: nowhere.read("a")):
        with pytest.raises(StorageError, match="that the bucket exists"):
            attempt()


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
    with pytest.raises(StorageError, match="directory's owner"):
        check_store(Store(str(tmp_path / "file" / "below")))


def test_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_store("artifacts/").root == str(tmp_path / "artifacts")
    assert open_store("s3://bucket/a/").root == "s3://bucket/a"
    assert open_store("s3://bucket/a").below("b", "c").path("d") == "s3://bucket/a/b/c/d"
    assert Store("s3://bucket", Patience.PROBE).below("a").patience is Patience.PROBE


def _write_by(verb: str, store: Store, data: bytes, local: Path) -> None:
    local.write_bytes(data)
    match verb:
        case "write":
            store.write("file", data)
        case "create":
            assert store.create("file", data)
        case "put":
            store.put(local, "file")


def _read_by(verb: str, store: Store, local: Path) -> bytes:
    if verb == "read":
        return store.read("file")
    store.get("file", local)
    return local.read_bytes()


def _python(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True, cwd=CHECKOUT
    )


def _use(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
