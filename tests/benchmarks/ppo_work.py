"""What a step of PPO is measured on: two shapes of prompts and answers, as shards for the engine and as rows for everybody.

abstracts, instructions --tokenizer--> prompts of a shape --write_prompts--> shards directory
                                                         --of_step (jobs/ppo/prompts.py)--> the same prompts for all
"""

import json
import random
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tests.benchmarks.training_data import ABSTRACTS, ROOT

INSTRUCTIONS = ROOT / "artifacts/assets/instructions/alpaca_en_demo.json"
STEPS = 24
"""So many steps have prompts of their own; later ones ask them again."""
SEED = 17
SHORTEST, LONGEST = 16, 256
"""Tokens of a prompt of natural length."""


@dataclass(frozen=True)
class Shape:
    """How long prompts and answers of a step are."""

    prompts: int
    """Of a step, one answer each."""
    new_tokens: int
    """Most, of an answer."""
    ends: bool
    """Whether an answer ends at its end token; otherwise all have `new_tokens`."""
    context: int
    """Most tokens of a prompt."""
    micro_batch_tokens: int
    """In one forward pass with a gradient, for all sides."""


SHAPES = {"fixed": Shape(32, 64, False, 64, 2048), "natural": Shape(16, 256, True, LONGEST, 1024)}
"""At natural lengths TRL needs 9 GB with 2,048 tokens, and ours beside it no longer fits into 24 GiB."""


def prompts_of(shape: Shape, model: str) -> list[list[int]]:
    """Token ids of all prompts: beginnings of abstracts of one length, or questions of people, with a text and without."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    count = STEPS * shape.prompts
    texts = _abstracts(3 * count)
    if not shape.ends:
        cut = [tokenizer(text).input_ids[: shape.context] for text in texts]
        return [ids for ids in cut if len(ids) == shape.context][:count]
    generator = random.Random(SEED)
    asked = [row["instruction"] for row in json.loads(INSTRUCTIONS.read_text())]
    made: list[list[int]] = []
    for number, text in enumerate(texts):
        question = asked[number % len(asked)]
        if number % 2:  # a text of any length behind it
            tokens = generator.randint(SHORTEST, LONGEST)
            question += "\n\n" + tokenizer.decode(tokenizer(text).input_ids[:tokens])
        made.append(tokenizer(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n").input_ids)
    return [ids for ids in made if SHORTEST <= len(ids) <= LONGEST][:count]


def write_prompts(shape: Shape, model: str, directory: Path) -> None:
    """A shards directory with `rows: prompts`, as jobs/corpus writes them."""
    import pyarrow as pa

    from cluster.storage import open_store
    from jobs.corpus.schema import INDEX_SCHEMA, PROMPT_SCHEMA, write_table

    prompts = prompts_of(shape, model)
    rows = [{"input_ids": ids, "document_id": n, "messages": "[]", "answer": None} for n, ids in enumerate(prompts)]
    index = [
        {"shard": 0, "row": row, "tokens": len(ids), "weight": 1.0, "source": "benchmark"}
        for row, ids in enumerate(prompts)
    ]
    store = open_store(str(directory))
    shard = write_table(store, "train/shard-00000.parquet", pa.Table.from_pylist(rows, schema=PROMPT_SCHEMA))
    write_table(store, "train/index.parquet", pa.Table.from_pylist(index, schema=INDEX_SCHEMA))
    store.write_json("manifest.json", {"files": {"train/shard-00000.parquet": {"sha256": shard.sha256}}})


def stage_of(shape: Shape, threads: int, **changes: Any) -> Any:
    """One epoch, one minibatch, every role; what is not speed is the default."""
    from configs.schema.ppo_stage import PpoStage

    role = {"threads_per_rank": threads}
    values: dict[str, Any] = {
        "stage": "ppo", "model": "base", "shards": "prompts", "rewards": [{"model": "reward"}], "steps": 1000,
        "max_new_tokens": shape.new_tokens, "precision": "bf16", "micro_batch_tokens": shape.micro_batch_tokens,
        "algorithm": {"prompts_per_step": shape.prompts, "epochs": 1, "minibatches": 1},
        # So small that answers stay as long as they are: what the random reward head likes is not the question here.
        "optimizer": {"learning_rate": 1e-7}, "critic_optimizer": {"learning_rate": 1e-7},
        "checkpoints": {"every_steps": 1000}, "health": {"least_end_rate": 0},
        "resources": {
            "placement": "colocated", "policy": role, "critic": role, "reference": role, "reward": role,
            "rollout": {**role, "kv_cache_gib": 1, "max_num_seqs": 64},
        },
    }  # fmt: skip
    return PpoStage.model_validate({**values, **changes})


def _abstracts(count: int) -> list[str]:
    from jobs.corpus.pubmed import read_pubmed_file

    return [raw.text for raw in islice(read_pubmed_file(ABSTRACTS), count)]
