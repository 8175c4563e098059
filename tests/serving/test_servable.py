"""What is wrong with a model, a setting or a port is said before Ray starts, with exit code 2."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from configs.schema.serving import Serving
from jobs.cli import app
from jobs.cli.serving import find_served_model, require_key, require_servable
from serving.port import PortInUse, require_free_port
from tests.serving.tiny_llama import write_tiny_llama
from tests.world.command import acclimate, require_refused

OPTIONS: dict[str, Any] = {}


def _refusal(model: Path, **options: Any) -> str:
    directory, _ = find_served_model(str(model), "artifacts")
    with pytest.raises(Exception) as refused:
        require_servable(directory, Serving.model_validate({**OPTIONS, **options}))
    assert getattr(type(refused.value), "exit_code", None) == 2, refused.value
    return str(refused.value)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_tiny_llama(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_a_whole_model_is_served_by_its_directorys_name(model: Path) -> None:
    directory, name = find_served_model(str(model), "artifacts")
    require_servable(directory, Serving.model_validate(OPTIONS))
    assert (directory.root, name) == (str(model), "tiny")


def test_a_directory_without_a_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    assert "config.json is missing" in _refusal(tmp_path)


def test_a_cut_download(model: Path) -> None:
    weights = model / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 100)
    assert "model.safetensors" in _refusal(model)


def test_no_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    assert "tokenizer" in _refusal(model)


def test_no_chat_template_is_refused_for_chat_and_taken_for_completions(model: Path) -> None:
    (model / "chat_template.jinja").unlink()
    assert "--interface completions" in _refusal(model)
    directory, _ = find_served_model(str(model), "artifacts")
    require_servable(directory, Serving.model_validate({**OPTIONS, "interface": "completions"}))


def test_longer_inputs_than_the_model_reads(model: Path) -> None:
    assert "512 tokens" in _refusal(model, max_model_len=513)


def test_a_model_with_code_of_its_own(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModelForCausalLM": "own.Own"}}))
    assert "trust_remote_code=true" in _refusal(model)


def test_a_port_in_use_is_named_with_its_process() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=f"port {port} .*process {os.getpid()} .*--port {port + 1}"):
            require_free_port("127.0.0.1", port)
    require_free_port("127.0.0.1", port)


def test_a_port_in_use_ends_in_two_before_anything_starts(model: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        answer = acclimate("serve", str(model), "--port", str(taken.getsockname()[1]))
    require_refused(answer, 2, "in use by process", "--port")
    assert "starting" not in answer.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.7", "::"])
def test_a_model_is_not_offered_to_a_network_without_a_key(
    model: Path, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for none in (None, ""):
        monkeypatch.delenv("ACCLIMATE_API_KEY", raising=False)
        if none is not None:
            monkeypatch.setenv("ACCLIMATE_API_KEY", none)
        require_refused(acclimate("serve", str(model), "--host", host), 2, "ACCLIMATE_API_KEY", "--without-key")
    require_key(host, without_key=True)
    require_key("127.0.0.1", without_key=False)
    monkeypatch.setenv("ACCLIMATE_API_KEY", "x" * 16)
    require_key(host, without_key=False)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (["max_replica=2"], "max_replicas"),
        (["dtype=int8"], "float32"),
        (["max_replicas"], "key=value"),
        (["min_replicas=3"], "max_replicas"),
    ],
)
def test_a_wrong_setting_ends_in_two(model: Path, settings: list[str], named: str) -> None:
    answer = CliRunner().invoke(app, ["serve", str(model), *settings])
    assert answer.exit_code == 2
    assert named in answer.output


def test_a_short_key_is_refused() -> None:
    from serving.ingress import ApiKeyTooShort, digest_of

    with pytest.raises(ApiKeyTooShort, match="15 characters"):
        digest_of("x" * 15)
    assert len(digest_of("x" * 16)) == 64


def test_an_address_of_no_cluster_is_the_options_fault(model: Path) -> None:
    refused = acclimate("serve", str(model), "--cluster", "nonsense")
    assert refused.code == 2 and "--cluster" in refused.stderr and "HOST:PORT" in refused.stderr
