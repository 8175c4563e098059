"""A PPO run of seconds: a tiny random Llama that vLLM can serve, made-up questions, a reward model trained on made-up pairs."""

import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from cluster.storage import Store
from tests.serving.tiny_llama import write_tiny_llama
from tests.world.toy_judgements import write_toy_pairs
from tests.world.toy_run import ToyRun, tree_digest

REWARD = {"model": "reward"}


def write_toy_ppo(directory: Path, store: str, **changes: Any) -> ToyRun:
    """A run file in `directory` with model and pairs beside it; `changes` go into the ppo stage."""
    directory.mkdir(parents=True, exist_ok=True)
    write_tiny_llama(directory / "model")
    write_toy_pairs(directory / "pairs.jsonl")
    shards = {"stage": "shards", "model": "base", "corpus": "opinions", "shards": 2}
    config = directory / "ppo.yaml"
    values = {
        "name": "toyppo", "seed": 3, "store": store, "tracking": "none",
        "stages": {
            "base": {"stage": "model", "source": str(directory / "model"), "licence": "Apache-2.0"},
            "opinions": {
                "stage": "corpus", "heldout_fraction": 0.2, "partitions": 2,
                "sources": {"pairs": {"path": str(directory / "pairs.jsonl"), "licence": "CC0-1.0"}},
            },
            "pairs": {**shards, "rows": "preferences", "context": 256},
            "prompts": {**shards, "rows": "prompts", "context": 128},
            "reward": {
                "stage": "reward", "model": "base", "shards": "pairs", "steps": 2, "batch_examples": 8, "precision": "fp32",
                "optimizer": {"learning_rate": 1e-3},
            },
            "ppo": toy_ppo_stage(**changes),
        },
    }  # fmt: skip
    config.write_text(yaml.safe_dump(values, sort_keys=False))
    return ToyRun(config, Store(store))


def toy_ppo_stage(**changes: Any) -> dict[str, Any]:
    """A ppo stage with every role; `algorithm` and `resources` of `changes` are merged, the rest replaces."""
    stage: dict[str, Any] = {
        "stage": "ppo", "model": "base", "shards": "prompts", "rewards": [REWARD], "critic": "reward", "steps": 3,
        "max_new_tokens": 12, "precision": "fp32", "unit_prompts": 2, "micro_batch_tokens": 256,
        "algorithm": {"prompts_per_step": 6, "answers_per_prompt": 2, "epochs": 2, "minibatches": 2, "temperature": 0.9},
        "optimizer": {"learning_rate": 1e-3}, "critic_optimizer": {"learning_rate": 1e-3},
        "checkpoints": {"every_steps": 1}, "health": {"least_end_rate": 0, "probe_every_steps": 1},
        "resources": {"placement": "colocated", "rollout": {"kv_cache_gib": 0.25, "max_num_seqs": 8}},
    }  # fmt: skip
    for name, value in changes.items():
        merged = {**stage[name], **value} if isinstance(stage.get(name), dict) and isinstance(value, dict) else value
        stage[name] = merged
    return {name: value for name, value in stage.items() if value is not None}


def weights_of(run: ToyRun) -> str:
    """sha256 over the files of the model that the run made."""
    return tree_digest(run.artifact("ppo").content.below("model"))


def samples_of(run: ToyRun) -> dict[str, list[dict[str, Any]]]:
    """Rows of every answer that the run has kept, by file."""
    samples = Store(run.artifact("ppo").content.root.partition("/attempts/")[0])
    return {
        name: pq.read_table(io.BytesIO(samples.read("samples", name))).to_pylist() for name in samples.names("samples")
    }
