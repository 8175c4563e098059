"""Model sources: what is refused and how, and that what arrives is what was there."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from cluster.storage import Store
from configs.schema.run import ModelStage
from jobs.corpus.template import TemplateError
from jobs.model_files import ModelError, ModelFacts, check_model
from jobs.models import import_model, resolve_source
from tests.world.s3 import s3_server

CHECKOUT = Path(__file__).resolve().parents[1]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_the_right_token_of_a_test"


def silent(label: str, done: int, total: int) -> None:
    """A progress that nobody watches."""


def write_model(directory: Path) -> Path:
    """A model directory in all its parts: 2 shards, 48 + 16 numbers in bf16; no forward pass could run it."""
    directory.mkdir(parents=True)
    save_file({"a": torch.zeros(6, 8, dtype=torch.bfloat16)}, directory / "model-00001-of-00002.safetensors")
    save_file({"b": torch.ones(16, dtype=torch.bfloat16)}, directory / "model-00002-of-00002.safetensors")
    index = {
        "metadata": {},
        "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"},
    }
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 7,
        "max_position_embeddings": 64,
        "eos_token_id": 6,
    }
    (directory / "config.json").write_text(json.dumps(config))
    words = {f"w{number}": number for number in range(6)} | {"</s>": 6}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": {"__type": "AddedToken", "content": "</s>"},
                "unk_token": "w0",
            }
        )
    )
    (directory / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (directory / "optimizer.pt").write_bytes(b"a pickle that must not travel" * 200)
    return directory


def run_python(program: str, arguments: list[str], environment: dict[str, str]) -> str:
    """HF_ENDPOINT and credentials are read when libraries are imported: a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        check=False,
        cwd=CHECKOUT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert TOKEN not in done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "origin")


def test_facts_are_counted_from_the_headers(model: Path):
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [6, 2]}))
    weight_bytes = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    assert check_model(Store(str(model))) == ModelFacts(
        architecture="LlamaForCausalLM",
        parameters=6 * 8 + 16,
        dtype="bfloat16",
        vocabulary=7,
        context=64,
        eos_token="</s>",
        eos_token_ids=(6, 2),
        has_chat_template=False,
        needs_remote_code=False,
        bytes=weight_bytes,
    )


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("config.json", "config.json is missing"),
        ("tokenizer.json", "no tokenizer"),
        ("model-00002-of-00002.safetensors", "1 of 2 weight files"),
    ],
)
def test_a_missing_file_is_named(model: Path, missing: str, told: str):
    (model / missing).unlink()
    with pytest.raises(ModelError, match=told):
        check_model(Store(str(model)))


def test_a_cut_weight_file_is_found(model: Path):
    shard = model / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ModelError, match="model-00002-of-00002"):
        check_model(Store(str(model)))


def test_pickled_weights_are_refused_with_the_way_to_convert_them(model: Path):
    for shard in model.glob("*.safetensors"):
        shard.unlink()
    (model / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"pytorch_model.bin.*\n.*save_pretrained"):
        resolve_source(str(model))


def test_a_directory_one_level_too_high_is_recognised(model: Path):
    with pytest.raises(ModelError, match="'origin'"):
        resolve_source(str(model.parent))
    with pytest.raises(ModelError, match="no such directory"):
        resolve_source(str(model / "nowhere"))


def test_the_fingerprint_follows_the_files_that_count(model: Path, tmp_path: Path):
    first = resolve_source(str(model))
    shutil.copytree(model, tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "training_args.bin").write_bytes(b"does not count")
    assert resolve_source(str(tmp_path / "elsewhere")).fingerprint == first.fingerprint
    changed = json.loads((model / "config.json").read_text()) | {"vocab_size": 8}
    (model / "config.json").write_text(json.dumps(changed))
    assert resolve_source(str(model)).fingerprint != first.fingerprint


def test_import_brings_the_files_that_count_and_no_pickle(model: Path, tmp_path: Path):
    seen: list[tuple[int, int]] = []
    resolved = resolve_source(str(model))
    output = Store(str(tmp_path / "output"))
    stage = ModelStage(stage="model", source=str(model))
    import_model(stage, resolved, output, lambda label, done, total: seen.append((done, total)))
    assert set(output.names("model")) == {path.name for path in model.iterdir()} - {"optimizer.pt"}
    assert all(output.read("model", file.name) == (model / file.name).read_bytes() for file in resolved.files)
    assert seen[0] == (0, resolved.total_bytes) and seen[-1] == (resolved.total_bytes, resolved.total_bytes)


def test_code_that_comes_with_a_model_needs_trust(model: Path, tmp_path: Path):
    config = json.loads((model / "config.json").read_text()) | {"auto_map": {"AutoModelForCausalLM": "modeling.Model"}}
    (model / "config.json").write_text(json.dumps(config))
    (model / "modeling.py").write_text("raise SystemExit('ran')")
    resolved = resolve_source(str(model))
    refused, trusted = Store(str(tmp_path / "refused")), Store(str(tmp_path / "trusted"))
    with pytest.raises(ModelError, match="trust_remote_code: true"):
        import_model(ModelStage(stage="model", source=str(model)), resolved, refused, silent)
    assert not refused.exists("model", "modeling.py")
    import_model(ModelStage(stage="model", source=str(model), trust_remote_code=True), resolved, trusted, silent)
    assert trusted.exists("model", "modeling.py")


def test_a_template_replaces_the_one_in_the_tokenizer_config(model: Path, tmp_path: Path):
    config = json.loads((model / "tokenizer_config.json").read_text()) | {"chat_template": "the old one"}
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    output = Store(str(tmp_path / "output"))
    stage = ModelStage(stage="model", source=str(model), chat_template="instruction")
    facts = import_model(stage, resolve_source(str(model)), output, silent)
    assert facts.has_chat_template
    assert "chat_template" not in output.read_json("model", "tokenizer_config.json")
    assert b"### Response" in output.read("model", "chat_template.jinja")


def test_a_template_without_end_of_sequence_is_refused(model: Path, tmp_path: Path):
    template = tmp_path / "endless.jinja"
    template.write_text("{% for message in messages %}{{ message['content'] }}\n{% endfor %}")
    stage = ModelStage(stage="model", source=str(model), chat_template=str(template))
    with pytest.raises(TemplateError, match="end-of-sequence"):
        import_model(stage, resolve_source(str(model)), Store(str(tmp_path / "output")), silent)


@pytest.mark.cluster
def test_import_from_s3(model: Path, tmp_path: Path):
    with s3_server() as server:
        program = """
import json, sys
from cluster.storage import Store
from configs.schema.run import ModelStage
from jobs.models import import_model, resolve_source
source, local, output = sys.argv[1:]
for file in Store(local).files():
    Store(source).write(file.name, Store(local).read(file.name))
first = resolve_source(source)
import_model(ModelStage(stage="model", source=source), first, Store(output), lambda *_: None)
Store(source).write("config.json", Store(source).read("config.json") + b" ")
print(json.dumps([first.fingerprint, resolve_source(source).fingerprint]))
"""
        bucket = server.new_bucket()
        answer = run_python(program, [f"s3://{bucket}/in", str(model), f"s3://{bucket}/out"], server.environment())
        before, after = json.loads(answer)
        assert before != after
        listed = run_python(
            "import sys; from cluster.storage import Store; print(*Store(sys.argv[1]).names('model'))",
            [f"s3://{bucket}/out"],
            server.environment(),
        )
        assert set(listed.split()) == {path.name for path in model.iterdir()} - {"optimizer.pt"}
