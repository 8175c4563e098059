"""A model that lies on S3, served under an API key: answers, agreement with transformers, the door, recovery, the end."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import s3fs
import torch
from openai import AuthenticationError, OpenAI
from transformers import AutoTokenizer

from tests.serving.service import SERVE, Service, reference_logprobs, served, served_logprobs
from tests.serving.tiny_llama import write_tiny_llama
from tests.world.conditions import wait_for
from tests.world.s3 import ANYONE, s3_server

pytestmark = pytest.mark.vllm

KEY = "a-throwaway-key-of-the-tests"
CONVERSATION = [
    {"role": "user", "content": "What does the heart do? "},
    {"role": "assistant", "content": "It pumps\nblood."},
    {"role": "user", "content": "  And the liver \u2014 \u00e9tude? "},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny")
    write_tiny_llama(directory)
    return directory


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def service(model: Path, cache: Path) -> Iterator[Service]:
    with s3_server() as s3:
        bucket = s3.new_bucket()
        remote = s3fs.S3FileSystem(endpoint_url=s3.url, key=ANYONE.access_key, secret=ANYONE.secret_key)
        remote.put(f"{model}/", f"{bucket}/models/tiny/", recursive=True)
        environment = {**s3.environment(), "ACCLIMATE_API_KEY": KEY, "ACCLIMATE_CACHE": str(cache)}
        with served(f"s3://{bucket}/models/tiny", "dtype=float32", environment=environment) as running:
            yield running


def test_it_chats(service: Service) -> None:
    answer = service.client().chat.completions.create(model="model", messages=CONVERSATION, max_tokens=5, seed=1)
    assert answer.usage is not None and 1 <= answer.usage.completion_tokens <= 5
    assert answer.choices[0].message.role == "assistant"


def test_a_stream_says_what_the_whole_answer_says(service: Service) -> None:
    asked = {"model": "model", "messages": CONVERSATION, "max_tokens": 12, "temperature": 0}
    whole = service.client().chat.completions.create(**asked)
    pieces = [
        chunk.choices[0].delta.content or "" for chunk in service.client().chat.completions.create(**asked, stream=True)
    ]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len([piece for piece in pieces if piece]) > 1


def test_the_name_is_the_one_that_was_given(service: Service) -> None:
    assert [entry.id for entry in service.client().models.list().data] == ["model"]


def test_log_probabilities_are_those_of_transformers(service: Service, model: Path) -> None:
    tokens = AutoTokenizer.from_pretrained(model)(
        "The heart pumps blood through the body. What does the liver do? " * 4
    )
    served_values, _ = served_logprobs(service, tokens["input_ids"])
    reference, _ = reference_logprobs(model, tokens["input_ids"], torch.float32)
    assert len(reference) > 60
    assert max(abs(a - b) for a, b in zip(served_values, reference, strict=True)) <= 1e-4


def test_the_rendered_tokens_are_those_of_the_tokenizer(service: Service, model: Path) -> None:
    response = service.post(
        "/v1/chat/completions",
        {"model": "model", "messages": CONVERSATION, "max_tokens": 1, "return_token_ids": True},
    )
    response.raise_for_status()
    expected = AutoTokenizer.from_pretrained(model).apply_chat_template(
        CONVERSATION, add_generation_prompt=True, return_dict=False
    )
    assert response.json()["prompt_token_ids"] == expected


@pytest.mark.parametrize("key", ["none", KEY + "x", KEY[:-1]])
def test_another_key_is_refused(service: Service, key: str) -> None:
    with pytest.raises(AuthenticationError, match="ACCLIMATE_API_KEY"):
        OpenAI(base_url=f"{service.url}/v1", api_key=key, max_retries=0).models.list()


def test_no_key_is_refused_on_every_route(service: Service) -> None:
    assert [httpx.get(f"{service.url}{path}").status_code for path in ("/v1/models", "/docs", "/openapi.json")] == [
        401
    ] * 3
    assert httpx.post(f"{service.url}/tokenize", json={}).status_code == 401


def test_foreign_web_pages_get_no_leave(service: Service) -> None:
    headers = {"Origin": "https://elsewhere.example", "Authorization": f"Bearer {KEY}"}
    assert "access-control-allow-origin" not in httpx.get(f"{service.url}/v1/models", headers=headers).headers


def test_the_ready_text_names_the_variable_and_not_the_key(service: Service) -> None:
    assert KEY not in service.ready and "$ACCLIMATE_API_KEY" in service.ready
    assert service.ready.startswith("ready: model answers at")


def test_the_model_was_mirrored_by_content(service: Service, model: Path, cache: Path) -> None:
    [copy] = [entry for entry in (cache / "models").iterdir() if entry.is_dir()]
    assert (copy / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def test_its_port_is_taken_and_a_second_service_says_by_whom(service: Service, model: Path) -> None:
    second = subprocess.run(
        [*SERVE, str(model), "--port", str(service.port)], capture_output=True, text=True, timeout=60, check=False
    )
    assert second.returncode == 2
    assert f"port {service.port}" in second.stderr and "--port" in second.stderr and "process " in second.stderr


def test_a_killed_replica_comes_back_and_answers(service: Service) -> None:
    killed = service.replica()
    engines = killed.children(recursive=True)
    killed.kill()

    def answers() -> bool:
        try:
            return service.post("/v1/completions", {"model": "model", "prompt": "Hi", "max_tokens": 1}).is_success
        except httpx.HTTPError:
            return False

    wait_for("the replica is gone", lambda: not killed.is_running(), timeout_s=10)
    wait_for("an answer of its successor", answers, timeout_s=300)
    assert service.replica().pid != killed.pid
    assert psutil.wait_procs(engines, timeout=10)[1] == []


def test_sigterm_ends_everything(service: Service) -> None:
    """Last: the service is gone afterwards."""
    started = service.processes()
    assert len(started) > 5
    os.kill(service.process.pid, signal.SIGTERM)
    assert service.process.wait(60) == 130
    assert psutil.wait_procs(started, timeout=10)[1] == []
