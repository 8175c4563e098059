"""A whole run of seconds: the tiny model, a hundred made-up documents, and every kind of stage."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.artifacts import Artifact, find_named
from cluster.runs import list_runs, read_events
from cluster.storage import Store
from tests.world.tiny_model import SENTENCES

CHECKOUT = Path(__file__).parents[2]


def write_toy_documents(path: Path, count: int = 120) -> None:
    """JSONL of short texts, every third a conversation; one exact duplicate and one broken line."""
    lines = []
    for number in range(count):
        text = " ".join(SENTENCES[(number * step + step) % len(SENTENCES)] for step in range(1, 5)) + f" Case {number}."
        if number % 3:
            lines.append(json.dumps({"text": text}))
        else:
            question = {
                "instruction": f"What is case {number} about?",
                "context": text,
                "response": f"It is case {number}.",
            }
            lines.append(json.dumps(question))
    path.write_text("\n".join([*lines, lines[1], "{broken"]) + "\n")


def toy_run_values(
    model: Path,
    documents: Path,
    store: str,
    ranks: int = 2,
    steps: int = 6,
    sft_steps: int = 3,
    near_duplicates: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The values of a run file with all kinds of stages."""
    train = {
        "steps": steps, "batch_tokens": 256, "micro_batch_tokens": 128, "precision": "fp32",
        "optimizer": {"learning_rate": 5e-3}, "checkpoints": {"every_steps": 2}, "resources": {"ranks": ranks},
    }  # fmt: skip
    cleaning = {"minimum_characters": 20}
    source = {"path": str(documents), "format": "jsonl", "licence": "CC0-1.0"}
    return {
        "name": "toy", "seed": 3, "store": store, "tracking": "none",
        "stages": {
            "base": {"stage": "model", "source": str(model), "chat_template": "instruction", "licence": "Apache-2.0"},
            "papers": {
                "stage": "corpus", "sources": {"made_up": source}, "cleaning": cleaning, "heldout_fraction": 0.2, "partitions": 2,
                "near_duplicates": near_duplicates,
            },
            "texts": {"stage": "shards", "corpus": "papers", "model": "base", "rows": "text", "context": 128, "shards": 2},
            "tasks": {"stage": "shards", "corpus": "papers", "model": "base", "rows": "messages", "context": 256, "shards": 2},
            "cpt": {"stage": "cpt", "model": "base", "shards": "texts", **train},
            "sft": {"stage": "sft", "model": "cpt", "shards": "tasks", **train, "steps": sft_steps},
            "evaluation": {
                "stage": "evaluate", "models": ["base", "cpt", "sft"], "precision": "fp32",
                "sets": {"texts": {"corpus": "papers", "documents": 8}, "tasks": {"corpus": "papers", "rows": "messages", "documents": 4}},
                "answers": {"corpus": "papers", "prompts": 1, "max_tokens": 8},
            },
            "report": {"stage": "report", "evaluation": "evaluation"},
        },
    }  # fmt: skip


@dataclass(frozen=True)
class ToyRun:
    """A run file on disk and the store it writes to."""

    config: Path
    store: Store

    def start(self, *overrides: str, environment: dict[str, str] | None = None) -> "subprocess.Popen[str]":
        """`acclimate run` as a user would call it."""
        return start_acclimate(["run", str(self.config), *overrides, "--yes"], environment)

    def finish(
        self, *overrides: str, environment: dict[str, str] | None = None, timeout_s: float = 300
    ) -> tuple[int, str]:
        """Runs to the end: (exit code, what was printed to both streams)."""
        process = self.start(*overrides, environment=environment)
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            process.kill()
            error.add_note(f"it had printed: {process.communicate()[0][-4000:]}")
            raise
        return process.returncode, output

    def artifact(self, name: str) -> Artifact:
        return find_named(self.store, name)

    def digests(self, *names: str) -> dict[str, str]:
        """sha256 over all files of artifacts by name: equal exactly where every byte is."""
        return {name: tree_digest(self.artifact(name).content) for name in names}

    def wait_for_step(self, step: int, timeout_s: float = 240) -> None:
        """Until the newest run has reported an optimizer step >= `step` and a checkpoint stands."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            names = [info.name for info in self.store.files("artifacts") if info.name.endswith("checkpoint.json")]
            if any(int(name.split("step-")[1].split("/")[0]) >= step for name in names):
                return
            time.sleep(0.1)
        said = [event for run in list_runs(self.store) for _, event in read_events(self.store, run["run_id"])]
        raise TimeoutError(f"no checkpoint of step {step} within {timeout_s} s; the runs said: {said[-20:]}")


def write_toy_run(directory: Path, model: Path, store: str, without: Sequence[str] = (), **changes: Any) -> ToyRun:
    """A run file in `directory` with documents beside it; `without` leaves stages out."""
    directory.mkdir(parents=True, exist_ok=True)
    documents = directory / "documents.jsonl"
    write_toy_documents(documents)
    config = directory / "toy.yaml"
    values = toy_run_values(model, documents, store, **changes)
    values["stages"] = {name: stage for name, stage in values["stages"].items() if name not in without}
    config.write_text(yaml.safe_dump(values, sort_keys=False))
    return ToyRun(config, Store(store))


def copy_artifacts(done: Store, store: Store, *without: str) -> None:
    """What a run has made, but for artifacts of the kinds `without`, into another store: there a run begins with those."""
    for info in done.files("artifacts"):
        if not info.name.startswith(tuple(f"{kind}-" for kind in without)):
            store.write(f"artifacts/{info.name}", done.read("artifacts", info.name))


def start_acclimate(arguments: Sequence[str], environment: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    """The command line in a process of its own; stdout and stderr together."""
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", *arguments], cwd=CHECKOUT, env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def tree_digest(content: Store) -> str:
    digest = hashlib.sha256()
    for info in content.files():
        digest.update(info.name.encode() + b"\0" + content.read(info.name))
    return digest.hexdigest()
