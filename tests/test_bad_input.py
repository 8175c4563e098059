"""What a user can get wrong: found before Ray starts, said in one screen, with the exit code of configs/errors.py."""

import gzip
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

ZIPPED = gzip.compress(b'{"text": "x"}', mtime=0)
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


def _empty_weights(model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"")


def _header_of_a_list(model: Path) -> None:
    (model / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"[]")


def _broken_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").write_text('{"version": ')


def _broken_index(model: Path) -> None:
    (model / "model.safetensors.index.json").write_text('{"weights": {}}')


def _config_of_a_list(model: Path) -> None:
    (model / "config.json").write_text("[]")


def _gpt2(model: Path) -> None:
    sizes = {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 1024, "vocab_size": 512}
    dropout = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop", "summary_first_dropout"), 0.0)
    config = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", **sizes, **dropout}
    (model / "config.json").write_text(json.dumps(config))


def _picture_model(model: Path) -> None:
    text = json.loads((model / "config.json").read_text())
    config = {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "text_config": text}
    (model / "config.json").write_text(json.dumps(config))


def _translator(model: Path) -> None:
    config = {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "vocab_size": 512, "dropout_rate": 0}
    (model / "config.json").write_text(json.dumps(config))


def _other_sizes(model: Path) -> None:
    _configured(model, num_hidden_layers=3)


def _odd_heads(model: Path) -> None:
    _configured(model, num_attention_heads="many")


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
        (_empty_weights, ("model.safetensors", "fetch it again")),
        (_header_of_a_list, ("model.safetensors", "fetch it again")),
        (_broken_tokenizer, ("tokenizer or config.json cannot be read", "Copy the tokenizer files")),
        (_broken_index, ("model.safetensors.index.json", "again")),
        (_config_of_a_list, ("config.json",)),
        (_gpt2, ("cannot be trained", "model_type gpt2", "choose a model of")),
        (_picture_model, ("cannot be trained", "llava", "Choose one")),
        (_translator, ("cannot be trained", "t5: an encoder-decoder model")),
        (_other_sizes, ("the weights do not fit config.json", "model.layers.2")),
        (_odd_heads, ("cannot be read", "num_attention_heads")),
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
        acclimate("serve", str(model), "--store", toy.store.root, "--port", str(free_port())),
        2,
        str(model),
        "there is no model here",
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


def test_too_little_memory(toy: ToyRun) -> None:
    told = ("stages.cpt needs about", "GiB are free", "stages.cpt.micro_batch_tokens (now 1000000000)")
    for verb in ("run", "plan"):
        answer = acclimate(verb, str(toy.config), "stages.cpt.micro_batch_tokens=1000000000")
        require_refused(answer, 3, *told, store=toy.store)


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
    row = dict.fromkeys(DOCUMENT_SCHEMA.names, "x") | {"messages": messages, "byte_offset": None, "byte_length": None}
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


def test_rows_longer_than_the_model_reads(toy: ToyRun) -> None:
    for verb in ("run", "plan"):
        answer = acclimate(verb, str(toy.config), "stages.texts.context=2048", "stages.cpt.batch_tokens=4096")
        told = (
            "stages.texts.context: 2048",
            "max_position_embeddings 1024",
            "Set stages.texts.context to 1024 or less",
        )
        require_refused(answer, 2, *told, store=toy.store)
    answer = acclimate("plan", str(toy.config), "stages.evaluation.sets.texts.tokens=1025")
    require_refused(answer, 2, "stages.evaluation.sets.texts.tokens: 1025", "to 1024 or less", store=toy.store)


def test_a_batch_that_holds_no_row(toy: ToyRun) -> None:
    for verb in ("run", "plan"):
        answer = acclimate(verb, str(toy.config), "stages.cpt.batch_tokens=127")
        told = ("stages.cpt.batch_tokens: 127", "no row of texts, which has 128", "batch_tokens to 128 or more")
        require_refused(answer, 2, *told, store=toy.store)


def test_a_document_end_that_is_no_token(toy: ToyRun) -> None:
    answer = acclimate("run", str(toy.config), "stages.texts.document_end=<|nothing|>")
    require_refused(answer, 2, "document_end", "<|nothing|>", "its special tokens are", store=toy.store)


@pytest.mark.parametrize(
    ("name", "format", "content", "told"),
    [
        ("empty.jsonl", "jsonl", b"", ("empty.jsonl: empty_file",)),
        (
            "key.jsonl",
            "jsonl",
            b'{"content": "x"}\n' * 5,
            ("key.jsonl#1: unknown_fields: has columns `content`; nearest formats:", "`text_rows` lacks `text`"),
        ),
        ("wide.txt", "text", "für alle".encode("utf-16-le"), ("wide.txt: nul_bytes", "UTF-16 without its mark")),
        ("latin.jsonl", "jsonl", '{"text": "für"}\n'.encode("latin-1"), ("latin.jsonl#1: not_utf8",)),
        ("table.jsonl", "jsonl", b"PAR1\x15\x04\x15\n\x00PAR1", ("table.jsonl#1", "it is a Parquet file")),
        ("packed.jsonl", "jsonl", ZIPPED, ("packed.jsonl#1", "it is gzip: name it .gz")),
        ("cut.jsonl.gz", "jsonl", ZIPPED[:-9], ("cut.jsonl.gz: damaged_file",)),
        ("papers.xml", "pubmed", b"<html><body/>", ("papers.xml: damaged_file",)),
        ("array.jsonl", "jsonl", b'[{"text": "x"}]', ("array.jsonl#1: not_an_object: a list",)),
    ],
)
def test_a_source_of_another_format(
    toy: ToyRun, tmp_path: Path, name: str, format: str, content: bytes, told: tuple[str, ...]
) -> None:
    (tmp_path / name).write_bytes(content)
    source = [f"stages.papers.sources.made_up.{key}" for key in ("path", "format")]
    for verb in ("run", "plan"):
        answer = acclimate(verb, str(toy.config), f"{source[0]}={tmp_path / name}", f"{source[1]}={format}")
        where = f"stages.papers.sources.made_up: no row can be read as `format: {format}`"
        require_refused(answer, 2, where, *told, store=toy.store)


def test_a_bad_row_among_good_ones_refuses_nothing(toy: ToyRun, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{broken\n{"text": "a good row"}\n')
    answer = acclimate("plan", str(toy.config), f"stages.papers.sources.made_up.path={tmp_path / 'rows.jsonl'}")
    assert answer.code == 0, answer.stderr
