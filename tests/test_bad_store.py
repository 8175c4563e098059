"""What is wrong with a store or with what stands in it: found before Ray starts, said in one screen."""

import hashlib
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

import jobs.preflight.fit
from cluster.artifacts import artifact_directory, attempt
from cluster.lease import acquire
from cluster.storage import Store
from configs.loader import load_run
from jobs.pipeline import PlannedStage, State, plan_run
from jobs.preflight.stages import check
from tests.world.command import Answer, acclimate, acclimate_process, require_refused
from tests.world.free_port import free_port
from tests.world.s3 import Credentials, S3Server, s3_environment
from tests.world.toy_run import ToyRun, write_toy_run


@pytest.fixture
def toy(tiny_model: Path, tmp_path: Path) -> ToyRun:
    return write_toy_run(tmp_path / "toy", tiny_model, str(tmp_path / "store"))


def _finish(planned: PlannedStage, store: Store, files: dict[str, bytes]) -> Store:
    """A finished artifact for a stage, made by hand. Returns its content."""
    with attempt(store, planned.stage.stage, planned.key) as own:
        for name, data in files.items():
            own.content.write(name, data)
        own.commit(
            {
                "name": planned.name,
                "parents": planned.parents,
                "licences": [],
                "config": planned.config,
                "settings": planned.stage.model_dump(mode="json"),
            }
        )
    return own.content


@pytest.fixture
def before_training(tiny_model: Path, tmp_path: Path) -> tuple[ToyRun, Store]:
    """A run whose model, corpus and shards stand while its training waits, and the content of the shards."""
    toy = write_toy_run(
        tmp_path / "toy", tiny_model, str(tmp_path / "store"), without=("tasks", "sft", "evaluation", "report")
    )
    planned = {stage.name: stage for stage in plan_run(load_run(str(toy.config)).run, toy.store)}
    _finish(planned["base"], toy.store, {f"model/{path.name}": path.read_bytes() for path in tiny_model.iterdir()})
    _finish(planned["papers"], toy.store, {"manifest.json": b"{}"})
    shards = {f"train/shard-{number:05d}.parquet": bytes([number]) * 1000 for number in range(2)}
    entries = {name: {"sha256": hashlib.sha256(data).hexdigest()} for name, data in shards.items()}
    manifest = json.dumps({"files": entries}).encode()
    return toy, _finish(planned["texts"], toy.store, {**shards, "manifest.json": manifest})


def _waiting(toy: ToyRun) -> list[PlannedStage]:
    return [stage for stage in plan_run(load_run(str(toy.config)).run, toy.store) if stage.state is not State.DONE]


def test_whole_shards_are_let_through(before_training: tuple[ToyRun, Store]) -> None:
    toy, _ = before_training
    waiting = _waiting(toy)
    assert [stage.name for stage in waiting] == ["cpt"]
    check(load_run(str(toy.config)).run, waiting, toy.store)


@pytest.mark.parametrize("damage", ["one bit", "gone"])
def test_a_damaged_shard_of_a_finished_artifact(before_training: tuple[ToyRun, Store], damage: str) -> None:
    toy, content = before_training
    name = "train/shard-00001.parquet"
    if damage == "gone":
        content.remove(name)
    else:
        content.write(name, b"\x01" * 999 + b"\x03")
    artifact = content.root.partition("/attempts/")[0]
    told = (
        content.path(name),
        "is missing" if damage == "gone" else "is damaged: sha256",
        f"Remove {artifact} and run",
    )
    require_refused(acclimate("run", str(toy.config)), 1, *told, store=toy.store)


def test_a_finished_model_that_was_damaged_since(before_training: tuple[ToyRun, Store]) -> None:
    toy, _ = before_training
    weights = Path(toy.artifact("base").content.path("model", "model.safetensors"))
    os.truncate(weights, 5000)
    require_refused(acclimate("run", str(toy.config)), 2, weights.parent.as_posix(), store=toy.store)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(directory)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


def test_a_full_disk(toy: ToyRun, small_disk: Path) -> None:
    store = f"store={small_disk / 'store'}"
    require_refused(acclimate("run", str(toy.config), store), 3, str(small_disk), "0.0 GiB left", "set `store`")
    with pytest.raises(OSError), open(small_disk / "filler", "wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    told = (str(small_disk), "No space left on device", "set `store`")
    require_refused(acclimate("run", str(toy.config), store), 3, *told)


def test_a_disk_that_cannot_hold_the_checkpoints(toy: ToyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model has 106,816 numbers: 12 bytes each in a checkpoint, four of them for keep: 3, 4 in the export."""
    monkeypatch.setattr(jobs.preflight.fit, "REST_BYTES", 0)
    parameters, size = 106_816, 427_264 + 2_072
    checkpoints = 12 * parameters * 4
    imported = sum(
        path.stat().st_size
        for path in Path(yaml.safe_load(toy.config.read_text())["stages"]["base"]["source"]).iterdir()
    )
    needed = imported + size + size + checkpoints  # base and cpt stand while sft writes its checkpoints

    def with_free(free: int) -> Answer:
        usage = shutil.disk_usage("/")._replace(free=free)
        monkeypatch.setattr(jobs.preflight.fit.psutil, "disk_usage", lambda path: usage)
        return acclimate("plan", str(toy.config), "stages.cpt.checkpoints.keep=3", "stages.sft.checkpoints.keep=3")

    assert with_free(needed).code == 0
    told = (toy.store.root, "of it checkpoints of stages.sft", "Lower stages.sft.checkpoints.keep (now 3)", "s3://")
    require_refused(with_free(needed - 1), 3, *told, store=toy.store)


def test_a_disk_that_is_mounted_read_only(toy: ToyRun, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    told = (str(small_disk), "mounted read-only", "set `store` to another directory")
    require_refused(acclimate("run", str(toy.config), f"store={small_disk / 'store'}"), 4, *told)


@pytest.mark.parametrize("store", ["s3://", "s3:/bucket/store", "gs://bucket/store", "hdfs://host/store"])
def test_a_store_that_is_no_place(toy: ToyRun, store: str) -> None:
    for verb in ("run", "plan"):
        require_refused(acclimate(verb, str(toy.config), f"store={store}"), 2, store, "s3://BUCKET/PREFIX")


@contextmanager
def _refusing_s3(status: int, code: str) -> Iterator[str]:
    """An S3 that answers every request with one error; its address."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>No: {code}</Message></Error>".encode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # S3 clients wait for "100 Continue" before they send a body

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Connection", "close")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("status", "code", "remedy"),
    [
        (403, "AccessDenied", "allow s3:GetObject, s3:PutObject"),
        (403, "RequestTimeTooSkewed", "The clock of this machine is wrong"),
        (403, "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
        (403, "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
        (400, "ExpiredToken", "AWS_SESSION_TOKEN"),
        (400, "AuthorizationHeaderMalformed", "AWS_DEFAULT_REGION"),
        (404, "NoSuchBucket", "Create the bucket"),
    ],
)
def test_an_s3_that_refuses_says_how_to_mend_it(toy: ToyRun, status: int, code: str, remedy: str) -> None:
    with _refusing_s3(status, code) as endpoint:
        answer = acclimate_process("run", str(toy.config), "store=s3://bucket/store", **s3_environment(endpoint))
    require_refused(answer, 4, "s3://bucket/store", endpoint, remedy)


def test_a_store_that_is_a_file(toy: ToyRun, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    for verb in ("run", "plan"):
        told = (str(tmp_path / "file"), "cannot be read or written", "is a file: set `store`")
        require_refused(acclimate(verb, str(toy.config), f"store={tmp_path / 'file'}"), 4, *told)


@pytest.mark.cluster
@pytest.mark.parametrize("verb", ["run", "plan"])
def test_an_s3_that_does_not_answer(toy: ToyRun, verb: str) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    answer = acclimate_process(verb, str(toy.config), "store=s3://bucket/store", **s3_environment(endpoint))
    require_refused(answer, 4, "s3://bucket/store", endpoint, "Check AWS_ENDPOINT_URL")


@pytest.mark.cluster
def test_s3_credentials_that_are_refused(toy: ToyRun, s3: S3Server) -> None:
    store = f"store=s3://{s3.new_bucket()}/store"
    with s3.required_credentials():
        environment = s3.environment(Credentials("AKIAWRONG", "wrong"))
        answer = acclimate_process("run", str(toy.config), store, **environment)
    require_refused(answer, 4, store.removeprefix("store="), "Set AWS_ACCESS_KEY_ID to a key")


@pytest.mark.cluster
def test_a_bucket_that_does_not_exist(toy: ToyRun, s3: S3Server) -> None:
    answer = acclimate_process("run", str(toy.config), "store=s3://no-such-bucket/store", **s3.environment())
    require_refused(answer, 4, "s3://no-such-bucket/store", "Create the bucket")


def test_a_run_that_has_a_writer(toy: ToyRun) -> None:
    planned = {stage.name: stage for stage in plan_run(load_run(str(toy.config)).run, toy.store)}
    lease = acquire(artifact_directory(toy.store, "sft", planned["sft"].key))
    try:
        answer = acclimate("run", str(toy.config))
    finally:
        lease.release()
    told = (f"sft-{planned['sft'].key} is being written by", f"pid {os.getpid()}", "acclimate stop")
    require_refused(answer, 1, *told, store=toy.store)


def test_an_input_that_is_no_artifact(toy: ToyRun) -> None:
    for verb in ("run", "plan"):
        answer = acclimate(verb, str(toy.config), "stages.cpt.model=artifact:nobody")
        require_refused(answer, 2, "no finished model or cpt or sft", "is called 'nobody'", "There is: nothing yet")


def test_an_evaluation_whose_corpus_is_not_computed(before_training: tuple[ToyRun, Store]) -> None:
    toy, _ = before_training
    toy.store.remove("artifacts", toy.artifact("papers").content.root.partition("/attempts/")[0].rsplit("/", 1)[-1])
    values = yaml.safe_load(toy.config.read_text())
    sets = {"texts": {"corpus": "papers", "documents": 8}}
    values["stages"]["evaluation"] = {"stage": "evaluate", "models": ["base"], "sets": sets}
    toy.config.write_text(yaml.safe_dump(values, sort_keys=False))
    answer = acclimate("eval", "base", "--config", str(toy.config))
    require_refused(answer, 2, "papers is not computed yet", "acclimate run", store=toy.store)
