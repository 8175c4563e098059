"""What a user can get wrong: found before Ray starts, said in one screen, with the exit code of configs/errors.py."""

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from cluster.storage import Store
from configs.schema.corpus import ShardsStage
from jobs.corpus.schema import DOCUMENT_SCHEMA
from jobs.corpus.segments import conversation_segments
from jobs.corpus.template import end_token_ids, load_template
from jobs.models import load_tokenizer
from tests.world.command import acclimate, acclimate_process, require_refused
from tests.world.free_port import free_port
from tests.world.toy_run import CHECKOUT, ToyRun, write_toy_run

ENDLESS = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
"""A chat template that never says where an answer ends."""


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


def _configured(model: Path, **changes: object) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, **changes}))


def _encoder(model: Path) -> None:
    _configured(model, model_type="not-a-model")


def _experts(model: Path) -> None:
    _configured(model, model_type="mixtral", num_local_experts=4)


def _turning_angles(model: Path) -> None:
    """The shards have rows of 128 tokens."""
    factors = {"short_factor": [1.0] * 16, "long_factor": [2.0] * 16}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 100, **factors}
    _configured(model, rope_parameters=rope)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (shutil.rmtree, ("no such directory", "s3://BUCKET/PREFIX")),
        (_without_tokenizer, ("no tokenizer", "Copy the tokenizer files")),
        (_pickled, ("pytorch_model.bin", "Only safetensors are read", "save_pretrained")),
        (_cut_off, ("model.safetensors",)),
        (_broken_config, ("config.json is not JSON", "Download or copy it again")),
        (_encoder, ("cannot be trained", "not-a-model")),
        (_experts, ("cannot be trained", "num_local_experts = 4", "choose a dense model")),
        (_turning_angles, ("cannot be trained", "longrope", "`context` of at most 100")),
    ],
)
def test_a_model_that_cannot_be_used(
    toy: ToyRun, model: Path, damage: Callable[[Path], None], told: tuple[str, ...]
) -> None:
    damage(model)
    require_refused(acclimate("run", str(toy.config)), 2, str(model), *told, store=toy.store)


def test_adapters_that_do_not_fit_the_model(toy: ToyRun) -> None:
    answer = acclimate("run", str(toy.config), "stages.cpt.lora.targets=[wq]")
    require_refused(answer, 2, "lora.targets: no module is called 'wq'", "q_proj", store=toy.store)


def test_plan_and_serve_refuse_it_as_well(toy: ToyRun, model: Path) -> None:
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


def test_a_port_in_use(model: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        answer = acclimate("serve", str(model), "--interface", "completions", "--port", str(port))
    require_refused(answer, 2, f"port {port}", f"process {os.getpid()}", f"--port {port + 1}")


def test_too_little_memory(toy: ToyRun, model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "hidden_size": 10**6, "num_hidden_layers": 10**4}))
    told = ("stages.cpt needs about", "GiB are free", "stages.cpt.micro_batch_tokens")
    require_refused(acclimate("run", str(toy.config)), 3, *told, store=toy.store)


def test_a_typo_in_the_config(toy: ToyRun) -> None:
    lines = toy.config.read_text().splitlines()
    number = next(number for number, line in enumerate(lines) if line.strip() == "steps: 6")
    lines[number] = lines[number].replace("steps", "stpes")
    toy.config.write_text("\n".join(lines) + "\n")
    for verb in ("run", "plan"):
        answer = acclimate(verb, str(toy.config))
        require_refused(answer, 2, f"{toy.config}:{number + 1}", "stpes", "did you mean `steps`?", store=toy.store)


def test_a_template_without_an_end(toy: ToyRun, tmp_path: Path) -> None:
    template = tmp_path / "endless.jinja"
    template.write_text(ENDLESS)
    answer = acclimate("run", str(toy.config), f"stages.base.chat_template={template}")
    require_refused(answer, 2, "chat template", "end-of-sequence token", "add `eos_token`", store=toy.store)
    answer = acclimate("run", str(toy.config), f"stages.base.chat_template={template}.missing")
    require_refused(answer, 2, f"{template}.missing", "neither a preset", store=toy.store)


def test_conversations_for_a_model_without_a_template(toy: ToyRun) -> None:
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


def test_a_corpus_that_matches_nothing(toy: ToyRun, tmp_path: Path) -> None:
    nothing = str(tmp_path / "nothing" / "*.jsonl")
    for verb in ("run", "plan"):
        answer = acclimate(verb, str(toy.config), f"stages.papers.sources.made_up.path={nothing}")
        require_refused(answer, 2, "sources.made_up.path", nothing, "It must be a file", store=toy.store)
