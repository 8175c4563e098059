"""A run over judged answers: pairs and thumbs about made-up cases, and a stage of every objective that learns from them."""

import json
from pathlib import Path
from typing import Any

import yaml

from cluster.storage import Store
from tests.world.tiny_model import SENTENCES
from tests.world.toy_run import ToyRun


def write_toy_pairs(path: Path, count: int = 60) -> None:
    """TRL's preference type, every prompt twice: once plain, once as a conversation with a margin."""
    rows = []
    for number in range(count):
        prompt = f"What is case {number // 2}? {SENTENCES[number // 2 % len(SENTENCES)]}"
        chosen, rejected = (
            f"It is case {number // 2}, number {number}.",
            f"Nobody knows {SENTENCES[number % len(SENTENCES)]}",
        )
        if number % 2:
            row: dict[str, Any] = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        else:
            row = {
                "prompt": [{"role": "user", "content": prompt}],
                "chosen": [{"role": "assistant", "content": chosen}],
                "rejected": [{"role": "assistant", "content": rejected}],
                "margin": 0.5,
            }
        rows.append(json.dumps(row))
    path.write_text("\n".join(rows) + "\n")


def write_toy_thumbs(path: Path, count: int = 60) -> None:
    """TRL's unpaired preference type, up and down by turns."""
    rows = [
        {
            "prompt": f"What is case {number}?",
            "completion": SENTENCES[number % len(SENTENCES)],
            "label": number % 2 == 0,
        }
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_toy_judgements(directory: Path, model: Path, store: str, ranks: int = 1) -> ToyRun:
    """A run file in `directory` with the files beside it: pairs -> reward, dpo, orpo; thumbs -> kto; best answers -> sft."""
    directory.mkdir(parents=True, exist_ok=True)
    write_toy_pairs(directory / "pairs.jsonl")
    write_toy_thumbs(directory / "thumbs.jsonl")
    corpus = {"stage": "corpus", "heldout_fraction": 0.2, "partitions": 2}
    shards = {"stage": "shards", "model": "base", "context": 128, "shards": 2}
    train = {
        "model": "base", "steps": 3, "batch_examples": 8, "micro_batch_tokens": 512, "precision": "fp32",
        "optimizer": {"learning_rate": 1e-3}, "heldout": {"every_steps": 3, "rows": 4}, "resources": {"ranks": ranks},
    }  # fmt: skip
    source = {"licence": "CC0-1.0"}
    values = {
        "name": "judged", "seed": 3, "store": store, "tracking": "none",
        "stages": {
            "base": {"stage": "model", "source": str(model), "chat_template": "instruction", "licence": "Apache-2.0"},
            "opinions": {**corpus, "sources": {"pairs": {"path": str(directory / "pairs.jsonl"), **source}}},
            "votes": {**corpus, "sources": {"thumbs": {"path": str(directory / "thumbs.jsonl"), **source}}},
            "pairs": {**shards, "corpus": "opinions", "rows": "preferences"},
            "thumbs": {**shards, "corpus": "votes", "rows": "thumbs"},
            "best": {**shards, "corpus": "opinions", "rows": "messages"},
            "sft": {"stage": "sft", **train, "shards": "best", "batch_tokens": 256, "batch_examples": None},
            "reward": {"stage": "reward", **train, "shards": "pairs"},
            "dpo": {"stage": "dpo", **train, "shards": "pairs"},
            "orpo": {"stage": "orpo", **train, "shards": "pairs"},
            "kto": {"stage": "kto", **train, "shards": "thumbs"},
        },
    }  # fmt: skip
    del values["stages"]["sft"]["batch_examples"]
    config = directory / "judged.yaml"
    config.write_text(yaml.safe_dump(values, sort_keys=False))
    return ToyRun(config, Store(store))
