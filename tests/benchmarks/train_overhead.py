"""Training speed of the Learner over bare PyTorch: same model, rows, head, precision and optimizer; no FSDP, no Ray.

    python tests/benchmarks/train_overhead.py --model DIR [--rows SHARDS] [--rounds 5]

Both sides live in one process each, started once, and take turns: one optimizer step of 4,096 tokens each. Each side has all
threads while the other waits. tests/benchmarks/train.py has the peers too. Last line: {"vs_bare_pytorch": median of the ratios}.
"""

import argparse
import json
import os
import statistics
import sys
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.benchmarks import training_data as data  # noqa: E402 - the checkout is not on a script's path
from tests.benchmarks.side_by_side import Turns, take_turns  # noqa: E402

ROWS = 4
"""Of 1,024 tokens, two to a micro-batch: the 4,096 tokens of an optimizer step that the comparison is defined for."""
WARM_UP_STEPS = 2


def read_rows(shards: Path) -> list:
    """The fullest rows of Parquet shards."""
    import pyarrow.parquet as parquet

    from jobs.records import PackedRow

    columns = ["input_ids", "weights", "segment_lengths", "document_ids"]
    records = parquet.read_table(sorted(shards.rglob("shard-*.parquet")), columns=columns).to_pylist()
    records.sort(key=lambda record: -len(record["input_ids"]))
    return [PackedRow(**record) for record in records[:ROWS]]


def rows_of(arguments: argparse.Namespace) -> list:
    if arguments.rows:
        return read_rows(Path(arguments.rows))
    return data.random_rows(data.vocabulary_of(arguments.model), ROWS)


def serve(arguments: argparse.Namespace) -> None:
    """One side: a line in, one optimizer step, its seconds and loss out."""
    turns = Turns()
    from jobs.train.fsdp import set_threads
    from jobs.train.objectives.lm import next_token_loss
    from tests.benchmarks import engines

    set_threads(arguments.threads)
    rows = rows_of(arguments)
    batches = data.micro_batches_of(rows)
    loss_function = partial(next_token_loss, denominator=sum(sum(row.weights) for row in rows))
    if arguments.side == "learner":
        step = engines.learner_step(engines.learner_on_one_rank(arguments.model))
    else:
        step = engines.bare_step(arguments.model)
    while turns.wait():
        start = time.perf_counter()
        loss = step(batches, loss_function)
        turns.report(time.perf_counter() - start, loss)


def compare(arguments: argparse.Namespace) -> None:
    options = ["--model", arguments.model, "--threads", str(arguments.threads)]
    options += ["--rows", arguments.rows] if arguments.rows else []
    commands = {side: [sys.executable, __file__, "--side", side, *options] for side in ("learner", "bare")}
    tokens = sum(len(row.input_ids) for row in rows_of(arguments))
    ratios = []
    for counts, results in take_turns(commands, WARM_UP_STEPS, arguments.rounds):
        if not counts:
            print(
                "warm-up: " + ", ".join(f"{side} {result['loss']:.5f}" for side, result in results.items()), flush=True
            )
            difference = abs(results["learner"]["loss"] - results["bare"]["loss"])
            assert difference < 2e-2, f"the two sides do not compute the same: {results}"
            continue
        ratios.append(results["bare"]["seconds"] / results["learner"]["seconds"])
        speeds = ", ".join(f"{side} {tokens / result['seconds']:.0f} tok/s" for side, result in results.items())
        print(f"round {len(ratios) - 1}: {speeds}, ratio {ratios[-1]:.3f}", flush=True)
    print(json.dumps({"vs_bare_pytorch": round(statistics.median(ratios), 3)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(data.MODEL))
    parser.add_argument("--rows", help="directory with shard-*.parquet; random rows without it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--side", choices=["learner", "bare"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    serve(arguments) if arguments.side else compare(arguments)


if __name__ == "__main__":
    main()
