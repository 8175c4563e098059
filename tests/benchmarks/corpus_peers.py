"""datatrove and datasets, each as its documentation has it, in an environment of their own.

    python -m venv PEERS && PEERS/bin/pip install "datatrove[io,processing]==0.10.1" spacy datasets trl transformers

tests/benchmarks/corpus.py starts this file by that Python; nothing here imports our packages, but for the turns.
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.side_by_side import Turns
from tests.benchmarks.tree_memory import TreeMemory


def dedup(texts: str, output: str, workers: int) -> None:
    """datatrove's four MinHash stages with its own settings: 5-grams, 14 buckets of 8 hashes."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    config = MinhashConfig()
    tasks = len(list(Path(texts).glob("*.jsonl")))
    reader = JsonlReader(texts, glob_pattern="*.jsonl")
    folder = {name: str(Path(output, name)) for name in ("signatures", "buckets", "remove", "kept", "logs")}

    def run(name: str, pipeline: list[Any], tasks: int) -> None:
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=workers, logging_dir=f"{folder['logs']}/{name}").run()

    run("signatures", [reader, MinhashDedupSignature(folder["signatures"], config)], tasks)
    run("buckets", [MinhashDedupBuckets(folder["signatures"], folder["buckets"], config=config)], config.num_buckets)
    run("cluster", [MinhashDedupCluster(folder["buckets"], folder["remove"], config=config)], 1)
    run("filter", [reader, MinhashDedupFilter(folder["remove"]), JsonlWriter(folder["kept"], compression=None)], tasks)


def shards(texts: str, output: str, model: str, context: int, processes: int) -> None:
    """Parquet of texts -> datasets.map with the tokenizer -> TRL's best fit -> Parquet of rows, once a turn.

    Args:
        processes: of `map`; with one, the tokenizer's own threads work instead.
    """
    turns = Turns()
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if processes == 1 else "false"
    from datasets import Dataset, disable_progress_bars
    from transformers import AutoTokenizer
    from trl import pack_dataset

    disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(model)
    end, several = tokenizer.eos_token_id, None if processes == 1 else processes

    def tokenize(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        encoded = tokenizer(batch["text"], split_special_tokens=True, return_attention_mask=False)
        return {"input_ids": [[*ids, end] for ids in encoded["input_ids"]]}

    number = 0
    while turns.wait():
        number += 1
        # Its own cache a turn: datasets would not compute again what it has computed.
        cache = str(Path(output, f"cache-{number}"))
        with TreeMemory(os.getpid()) as memory:
            began = time.perf_counter()
            dataset: Any = Dataset.from_parquet(texts, cache_dir=cache)
            dataset = dataset.map(tokenize, batched=True, remove_columns=dataset.column_names, num_proc=several)
            dataset = pack_dataset(dataset, context, "bfd_split", {"num_proc": several})
            dataset.to_parquet(str(Path(output, f"rows-{number}.parquet")))
            seconds = time.perf_counter() - began
        tokens = sum(map(len, dataset["input_ids"]))
        turns.report(seconds, tokens=tokens, rows=len(dataset), tree_mib=memory.peak_mib)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", choices=["dedup", "shards"], required=True)
    parser.add_argument("--input", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--model")
    parser.add_argument("--context", type=int)
    parser.add_argument("--processes", type=int, required=True)
    arguments = parser.parse_args()
    if arguments.side == "dedup":
        dedup(arguments.input, arguments.output, arguments.processes)
    else:
        shards(arguments.input, arguments.output, arguments.model, arguments.context, arguments.processes)


if __name__ == "__main__":
    main()
