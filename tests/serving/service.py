"""`acclimate serve` in a process of its own, as a user starts it, and what its answers are compared with."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import torch
from openai import OpenAI
from transformers import AutoModelForCausalLM

from tests.world.conditions import kill_process, wait_for
from tests.world.free_port import free_port

CHECKOUT = Path(__file__).resolve().parents[2]
SERVE = (sys.executable, "-m", "jobs.cli", "serve")
START_TIMEOUT_S = 400.0
"""About a minute alone; several engines may start at the same time on two cores."""
END_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Service:
    """A running `acclimate serve`."""

    process: subprocess.Popen[str]
    port: int
    key: str
    ready: str
    """What it printed when it was ready."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, timeout=120)

    def post(self, path: str, body: dict[str, object], timeout_s: float = 120) -> httpx.Response:
        key = {"Authorization": f"Bearer {self.key}"}
        return httpx.post(f"{self.url}{path}", json=body, headers=key, timeout=timeout_s)

    def replica(self) -> psutil.Process:
        """The process that holds the engine."""
        for process in self.processes():
            if "LLMServer" in process.name() or any("LLMServer" in word for word in process.cmdline()[:1]):
                return process
        raise LookupError("no replica runs")

    def processes(self) -> list[psutil.Process]:
        """Everything the service has started and that still runs."""
        return [each for each in psutil.Process(self.process.pid).children(recursive=True) if each.is_running()]


@contextmanager
def served(model: str, *settings: str, environment: dict[str, str] | None = None) -> Iterator[Service]:
    """Starts the service, yields once it says that it is ready, ends it as a terminal or a supervisor would."""
    port = free_port()
    variables = {**os.environ, **(environment or {})}
    process = subprocess.Popen(
        [*SERVE, model, *settings, "--port", str(port), "--name", "model"],
        cwd=CHECKOUT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    lines: list[str] = []
    errors: list[str] = []
    readers = [
        threading.Thread(target=_collect, args=(process.stdout, lines), daemon=True),
        threading.Thread(target=_collect, args=(process.stderr, errors), daemon=True),
    ]
    for reader in readers:
        reader.start()
    try:
        wait_for("ready", lambda: "Ctrl-C ends it.\n" in lines or process.poll() is not None, START_TIMEOUT_S)
        assert process.poll() is None, "".join(errors)[-3000:]
        yield Service(process, port, variables.get("ACCLIMATE_API_KEY", "none"), "".join(lines))
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(END_TIMEOUT_S)
        kill_process(process)


def _collect(stream: "subprocess.IO[str]", lines: list[str]) -> None:  # type: ignore[name-defined]
    for line in stream:
        lines.append(line)


def served_logprobs(service: Service, tokens: list[int]) -> tuple[list[float], list[int]]:
    """Log-probability of each token after the first given those before it, and the model's first choice there."""
    response = service.post(
        "/v1/completions",
        {"model": "model", "prompt": tokens, "max_tokens": 1, "prompt_logprobs": 1, "temperature": 0},
    )
    response.raise_for_status()
    positions = response.json()["choices"][0]["prompt_logprobs"][1:]
    values = [position[str(token)]["logprob"] for position, token in zip(positions, tokens[1:], strict=True)]
    first = [next(int(key) for key, entry in position.items() if entry["rank"] == 1) for position in positions]
    return values, first


def reference_logprobs(directory: Path, tokens: list[int], dtype: torch.dtype) -> tuple[list[float], list[int]]:
    """The same by transformers: forward in `dtype`, log-softmax in fp32."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
    with torch.no_grad():
        logits_TV = model(torch.tensor([tokens])).logits[0, :-1].float()
    logprobs_TV = logits_TV.log_softmax(-1)
    targets_T = torch.tensor(tokens[1:])
    return logprobs_TV.gather(1, targets_T[:, None])[:, 0].tolist(), logprobs_TV.argmax(-1).tolist()
