"""How many answers of the served fine-tuned model end by themselves.

    python tests/benchmarks/served_answers.py [--model sft] [--corpus pubmed] [--prompts 50]

Starts `acclimate serve`, asks the openai client for the answers to held-out prompts (greedy, at most 256 tokens) and prints
the share that ended by EOS as its last line. Wanted: >= 0.9.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from openai import APIError, OpenAI

from cluster.artifacts import find_named
from cluster.storage import open_store
from jobs.corpus.collect import read_corpus_split

CHECKOUT = Path(__file__).parents[2]
MAX_TOKENS = 256
READY_S = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="sft")
    parser.add_argument("--corpus", default="pubmed")
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--port", type=int, default=8123)
    arguments = parser.parse_args()
    heldout = read_corpus_split(
        find_named(open_store(str(CHECKOUT / "artifacts")), arguments.corpus).content, "heldout"
    )
    conversations = [json.loads(text) for text in heldout.column("messages").to_pylist() if text][: arguments.prompts]
    server = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", "serve", arguments.model, "--port", str(arguments.port)], cwd=CHECKOUT
    )
    try:
        client = OpenAI(base_url=f"http://127.0.0.1:{arguments.port}/v1", api_key="none")
        wait_until_ready(client, arguments.model, server)

        def ends(messages: list[dict[str, str]]) -> bool:
            answer = client.chat.completions.create(
                model=arguments.model, messages=messages[:-1], max_tokens=MAX_TOKENS, temperature=0.0
            )  # fmt: skip
            return answer.choices[0].finish_reason == "stop"

        with ThreadPoolExecutor(8) as pool:
            ended = list(pool.map(ends, conversations))
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
    print(json.dumps({"ended_by_eos": sum(ended) / len(ended), "prompts": len(ended)}))


def wait_until_ready(client: OpenAI, model: str, server: "subprocess.Popen[bytes]") -> None:
    """Until the model is listed. Raises TimeoutError, or RuntimeError where the server ended."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with exit code {server.returncode}")
        try:
            if model in [entry.id for entry in client.models.list()]:
                return
        except APIError:  # nobody listens yet, or no application stands behind the port yet
            pass
        time.sleep(1)
    raise TimeoutError(f"not ready after {READY_S} s")


if __name__ == "__main__":
    main()
