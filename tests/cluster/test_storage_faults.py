"""What happens to a store on S3 when the network, the server, the credentials or a writer fail."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.storage import StorageError, Store, check_store
from tests.world.fault_proxy import Action, Fault, FaultProxy, fault_proxy
from tests.world.s3 import Credentials, S3Server, s3_environment

CHECKOUT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.cluster


@pytest.fixture
def proxy(s3: S3Server, s3_store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A fault proxy through which `s3_store` speaks to its server."""
    with fault_proxy(s3.url) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        yield running


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


def test_a_conflict_of_conditional_writes_is_tried_again(s3_store: Store, proxy: FaultProxy) -> None:
    proxy.add(Fault("PUT", Action.STATUS, status=409, times=2))
    assert s3_store.create("lease", b"mine")
    assert proxy.hits() == [2] and s3_store.read("lease") == b"mine"


MANY_PARTS = 110 * 2**20
"""s3fs splits from 50 MiB when reading and from 100 MiB when writing."""


@pytest.mark.parametrize(("verb", "requests"), [("write", "PUT"), ("put", "PUT"), ("write", "POST"), ("put", "POST")])
def test_a_cut_in_writing_many_parts(
    s3_store: Store, proxy: FaultProxy, tmp_path: Path, verb: str, requests: str
) -> None:
    """PUT is a part; POST begins the upload and ends it, and the answer to its end is lost here."""
    proxy.add(Fault(requests, Action.CUT_ANSWER, path="file", first=2))
    _write_by(verb, s3_store, os.urandom(2**20) * (MANY_PARTS // 2**20), tmp_path / "local")
    assert proxy.hits() == [1]
    assert s3_store.read("file") == (tmp_path / "local").read_bytes()


@pytest.mark.parametrize("verb", ["read", "get"])
def test_a_cut_in_reading_many_parts(s3_store: Store, proxy: FaultProxy, tmp_path: Path, verb: str) -> None:
    data = os.urandom(2**20) * (MANY_PARTS // 2**20)
    s3_store.write("file", data)
    proxy.add(Fault("GET", Action.CUT_ANSWER, path="file"))
    assert _read_by(verb, s3_store, tmp_path / "local") == data
    assert proxy.hits() == [1]


def test_a_store_is_not_refused_for_one_answer_that_is_cut_off(s3_store: Store, proxy: FaultProxy) -> None:
    proxy.add(Fault("GET", Action.CUT_ANSWER, path="probe-"))
    check_store(s3_store)
    assert proxy.hits() == [1]


def test_lasting_faults_are_reported(s3_store: Store, proxy: FaultProxy) -> None:
    proxy.add(Fault("PUT", Action.STATUS, status=500, times=1000))
    began = time.monotonic()
    with pytest.raises(StorageError, match="AWS_ENDPOINT_URL"):
        check_store(s3_store)
    assert time.monotonic() - began < 30


def test_an_endpoint_that_never_answers_is_reported(s3_store: Store, proxy: FaultProxy) -> None:
    proxy.add(Fault("PUT", Action.HOLD_BEFORE, times=1000))
    began = time.monotonic()
    with pytest.raises(StorageError, match="AWS_ENDPOINT_URL"):
        check_store(s3_store)
    assert time.monotonic() - began < 30
    proxy.clear()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://192.0.2.1:9000", "http://no-such-host.invalid:9000"])
def test_an_unreachable_endpoint_is_reported(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused, without an answer (192.0.2.0/24 is reserved for documentation), without a name."""
    for name, value in s3_environment(url).items():
        monkeypatch.setenv(name, value)
    began = time.monotonic()
    with pytest.raises(StorageError, match=f"{url}.*Check AWS_ENDPOINT_URL"):
        check_store(Store("s3://bucket/store"))
    assert time.monotonic() - began < 30


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


def test_a_missing_bucket_is_reported(s3_store: Store) -> None:
    nowhere = Store("s3://no-such-bucket/store")
    for attempt in (lambda: check_store(nowhere), lambda: nowhere.write("a", b""), lambda: nowhere.read("a")):
        with pytest.raises(StorageError, match="Create the bucket, or correct its name"):
            attempt()


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
