"""What a user can get wrong: found before Ray starts, said in one screen, with the exit code of configs/errors.py."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from cluster.artifacts import artifact_directory, attempt
from cluster.lease import acquire
from cluster.storage import Store
from configs.loader import load_run
from configs.schema.corpus import ShardsStage
from jobs.cli import main
from jobs.corpus.schema import DOCUMENT_SCHEMA
from jobs.corpus.segments import conversation_segments
from jobs.corpus.template import end_token_ids, load_template
from jobs.models import load_tokenizer
from jobs.pipeline import PlannedStage, State, plan_run
from jobs.preflight import check
from tests.world.free_port import free_port
from tests.world.s3 import Credentials, S3Server, s3_environment
from tests.world.toy_run import CHECKOUT, ToyRun, write_toy_run

SCREEN_CHARACTERS = 80 * 24
SOON_S = 30
"""What is asked of an unreachable store; everything else takes a few seconds, most of them for importing torch."""

ENDLESS = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
"""A chat template that never says where an answer ends."""


@dataclass(frozen=True)
class Answer:
    """How a command ended and what it said."""

    code: int
    stdout: str
    stderr: str


Ask = Callable[..., Answer]


@pytest.fixture
def acclimate(capfd: pytest.CaptureFixture[str]) -> Ask:
    """The command inside this process, where the heavy imports are paid for once."""

    def ask(*arguments: str) -> Answer:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        code = ended.value.code
        assert isinstance(code, int), code
        return Answer(code, *capfd.readouterr())

    return ask


def acclimate_process(*arguments: str, **environment: str) -> Answer:
    """The command in a process of its own, with its own environment."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", *arguments], cwd=CHECKOUT, env={**os.environ, **environment},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert time.monotonic() - began < SOON_S
    return Answer(done.returncode, done.stdout, done.stderr)


def require_refused(answer: Answer, code: int, *told: str, store: Store | None = None) -> None:
    """The exit code, every part of `told` in one screen on stderr, no traceback, and no run begun."""
    assert answer.code == code, answer.stderr
    said = " ".join(answer.stderr.split())
    assert [part for part in told if part not in said] == [], said
    assert "Traceback" not in said and "starting Ray" not in said
    assert len(said) < SCREEN_CHARACTERS and answer.stdout == ""
    assert store is None or store.names("runs") == [], "a run's log is begun right before Ray"


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A model directory that may be damaged."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture
def toy(model: Path, tmp_path: Path) -> ToyRun:
    return write_toy_run(tmp_path / "toy", model, str(tmp_path / "store"))


def _without_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").unlink()


def _pickled(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def _cut_off(model: Path) -> None:
    os.truncate(model / "model.safetensors", (model / "model.safetensors").stat().st_size - 1)


def _broken_config(model: Path) -> None:
    (model / "config.json").write_text('{"architectures": [')


def _encoder(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "model_type": "not-a-model"}))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (shutil.rmtree, ("no such directory", "s3://BUCKET/PREFIX")),
        (_without_tokenizer, ("no tokenizer", "Copy the tokenizer files")),
        (_pickled, ("pytorch_model.bin", "Only safetensors are read", "save_pretrained")),
        (_cut_off, ("model.safetensors",)),
        (_broken_config, ("config.json is not JSON", "Download or copy it again")),
        (_encoder, ("cannot be trained", "not-a-model")),
    ],
)
def test_a_model_that_cannot_be_used(
    toy: ToyRun, model: Path, acclimate: Ask, damage: Callable[[Path], None], told: tuple[str, ...]
) -> None:
    damage(model)
    require_refused(acclimate("run", str(toy.config)), 2, str(model), *told, store=toy.store)


def test_plan_and_serve_refuse_it_as_well(toy: ToyRun, model: Path, acclimate: Ask) -> None:
    _without_tokenizer(model)
    require_refused(acclimate("plan", str(toy.config)), 2, str(model), "no tokenizer")
    require_refused(acclimate("serve", str(model), "--port", str(free_port())), 2, str(model), "no tokenizer")
    shutil.rmtree(model)
    require_refused(
        acclimate("serve", str(model), "--store", toy.store.root, "--port", str(free_port())), 2, str(model), "There is"
    )


def test_the_command_itself_ends_with_the_code_and_no_traceback(toy: ToyRun, model: Path) -> None:
    shutil.rmtree(model)
    require_refused(acclimate_process("run", str(toy.config)), 2, "error: ", str(model), store=toy.store)


def _finish(planned: PlannedStage, store: Store, files: dict[str, bytes]) -> Store:
    """A finished artifact for a stage, made by hand. Returns its content."""
    with attempt(store, planned.stage.stage, planned.key) as own:
        for name, data in files.items():
            own.content.write(name, data)
        own.commit({"name": planned.name, "parents": planned.parents, "licences": [], "config": planned.config})
    return own.content


@pytest.fixture
def before_training(model: Path, tmp_path: Path) -> tuple[ToyRun, Store]:
    """A run whose model, corpus and shards stand while its training waits, and the content of the shards."""
    toy = write_toy_run(
        tmp_path / "toy", model, str(tmp_path / "store"), without=("tasks", "sft", "evaluation", "report")
    )
    planned = {stage.name: stage for stage in plan_run(load_run(str(toy.config)).run, toy.store)}
    _finish(planned["base"], toy.store, {f"model/{path.name}": path.read_bytes() for path in model.iterdir()})
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
def test_a_damaged_shard_of_a_finished_artifact(
    before_training: tuple[ToyRun, Store], acclimate: Ask, damage: str
) -> None:
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


def test_a_finished_model_that_was_damaged_since(before_training: tuple[ToyRun, Store], acclimate: Ask) -> None:
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


def test_a_full_disk(toy: ToyRun, small_disk: Path, acclimate: Ask) -> None:
    store = f"store={small_disk / 'store'}"
    require_refused(acclimate("run", str(toy.config), store), 3, str(small_disk), "0.0 GiB left", "set `store`")
    with pytest.raises(OSError), open(small_disk / "filler", "wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    told = (str(small_disk), "No space left on device", "set `store`")
    require_refused(acclimate("run", str(toy.config), store), 3, *told)


def test_a_store_that_is_a_file(toy: ToyRun, acclimate: Ask, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    for verb in ("run", "plan"):
        told = (str(tmp_path / "file"), "cannot be read or written", "Check the directory")
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
    require_refused(answer, 4, store.removeprefix("store="), "AWS_SECRET_ACCESS_KEY")


@pytest.mark.cluster
def test_a_bucket_that_does_not_exist(toy: ToyRun, s3: S3Server) -> None:
    answer = acclimate_process("run", str(toy.config), "store=s3://no-such-bucket/store", **s3.environment())
    require_refused(answer, 4, "s3://no-such-bucket/store", "that the bucket exists")


def test_a_port_in_use(model: Path, acclimate: Ask) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        answer = acclimate("serve", str(model), "--interface", "completions", "--port", str(port))
    require_refused(answer, 2, f"port {port}", f"process {os.getpid()}", f"--port {port + 1}")


def test_too_little_memory(toy: ToyRun, model: Path, acclimate: Ask) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "hidden_size": 10**6, "num_hidden_layers": 10**4}))
    told = ("stages.cpt needs about", "GiB are free", "stages.cpt.micro_batch_tokens")
    require_refused(acclimate("run", str(toy.config)), 3, *told, store=toy.store)


def test_a_typo_in_the_config(toy: ToyRun, acclimate: Ask) -> None:
    lines = toy.config.read_text().splitlines()
    number = next(number for number, line in enumerate(lines) if line.strip() == "steps: 6")
    lines[number] = lines[number].replace("steps", "stpes")
    toy.config.write_text("\n".join(lines) + "\n")
    for verb in ("run", "plan"):
        answer = acclimate(verb, str(toy.config))
        require_refused(answer, 2, f"{toy.config}:{number + 1}", "stpes", "did you mean `steps`?", store=toy.store)


def test_a_template_without_an_end(toy: ToyRun, acclimate: Ask, tmp_path: Path) -> None:
    template = tmp_path / "endless.jinja"
    template.write_text(ENDLESS)
    answer = acclimate("run", str(toy.config), f"stages.base.chat_template={template}")
    require_refused(answer, 2, "chat template", "end-of-sequence token", "add `eos_token`", store=toy.store)
    answer = acclimate("run", str(toy.config), f"stages.base.chat_template={template}.missing")
    require_refused(answer, 2, f"{template}.missing", "neither a preset", store=toy.store)


def test_conversations_for_a_model_without_a_template(toy: ToyRun, acclimate: Ask) -> None:
    answer = acclimate("run", str(toy.config), "stages.base.chat_template=null")
    require_refused(answer, 2, "no chat template", "chat_template: instruction", store=toy.store)


def test_conversations_without_an_answer_are_set_aside(tiny_model: Path) -> None:
    """That nothing is left to learn then ends the stage: tests/corpus/test_artifacts.py."""
    messages = json.dumps([{"role": "user", "content": "Who answers?"}])
    row = dict.fromkeys(DOCUMENT_SCHEMA.names, "x") | {"messages": messages}
    documents = pa.Table.from_pylist([{**row, "document_id": number} for number in range(3)], schema=DOCUMENT_SCHEMA)
    stage = ShardsStage.model_validate({"stage": "shards", "corpus": "c", "model": "m", "rows": "messages"})
    tokenizer = load_tokenizer(Store(str(tiny_model)))
    tokenizer.chat_template = load_template("instruction", CHECKOUT)
    segments = conversation_segments(documents, tokenizer, stage, end_token_ids(Store(str(tiny_model)), tokenizer))
    assert segments.table.num_rows == 0
    assert segments.rejected["reason"].to_pylist() == ["no_answer"] * 3


def test_a_corpus_that_matches_nothing(toy: ToyRun, acclimate: Ask, tmp_path: Path) -> None:
    nothing = str(tmp_path / "nothing" / "*.jsonl")
    for verb in ("run", "plan"):
        answer = acclimate(verb, str(toy.config), f"stages.papers.sources.made_up.path={nothing}")
        require_refused(answer, 2, "sources.made_up.path", nothing, "It must be a file", store=toy.store)


def test_a_run_that_has_a_writer(toy: ToyRun, acclimate: Ask) -> None:
    planned = {stage.name: stage for stage in plan_run(load_run(str(toy.config)).run, toy.store)}
    lease = acquire(artifact_directory(toy.store, "sft", planned["sft"].key))
    try:
        answer = acclimate("run", str(toy.config))
    finally:
        lease.release()
    told = (f"sft-{planned['sft'].key} is being written by", f"pid {os.getpid()}", "acclimate stop")
    require_refused(answer, 1, *told, store=toy.store)


def test_an_input_that_is_no_artifact(toy: ToyRun, acclimate: Ask) -> None:
    for verb in ("run", "plan"):
        answer = acclimate(verb, str(toy.config), "stages.cpt.model=artifact:nobody")
        require_refused(answer, 2, "no finished model or cpt or sft is called 'nobody'", "There is: nothing yet")


def test_an_evaluation_whose_corpus_is_not_computed(before_training: tuple[ToyRun, Store], acclimate: Ask) -> None:
    toy, _ = before_training
    toy.store.remove("artifacts", toy.artifact("papers").content.root.partition("/attempts/")[0].rsplit("/", 1)[-1])
    values = yaml.safe_load(toy.config.read_text())
    sets = {"texts": {"corpus": "papers", "documents": 8}}
    values["stages"]["evaluation"] = {"stage": "evaluate", "models": ["base"], "sets": sets}
    toy.config.write_text(yaml.safe_dump(values, sort_keys=False))
    answer = acclimate("eval", "base", "--config", str(toy.config))
    require_refused(answer, 2, "papers is not computed yet", "acclimate run", store=toy.store)
