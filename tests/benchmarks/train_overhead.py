"""Training speed over bare PyTorch: same model, rows, head, precision and optimizer; the bare loop has no FSDP and no Ray.

    python tests/benchmarks/train_overhead.py --model DIR [--rows SHARDS] [--rounds 5]

First the Learner by itself: both sides live in one process each, started once, and take turns: one optimizer step of 4,096
tokens each; each side has all threads while the other waits. Then whole training jobs under Ray Train, as `acclimate run`
starts them: reader, reports, one rank with all threads, and two ranks (FSDP2) that share them; their steps after the first
are held against steps of the bare loop before and after the job. tests/benchmarks/train.py has the peers too.

Last line, medians of the ratios: {"vs_bare_pytorch": r, "on_ray_vs_bare_pytorch": r, "two_ranks_on_ray_vs_bare_pytorch": r}.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
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
JOB_STEPS = 12
"""Of a job under Ray; the first of them, which pays for what is made once, do not count."""


def read_rows(shards: Path) -> list:
    """The fullest rows of Parquet shards."""
    import pyarrow.parquet as parquet

    from jobs.records import PackedRow

    columns = ["input_ids", "weights", "segment_lengths", "document_ids"]
    files = [path for path in sorted(shards.rglob("shard-*.parquet")) if path.parent.name in ("train", "heldout")]
    records = parquet.read_table(files, columns=columns).to_pylist()
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
    result = {"vs_bare_pytorch": round(statistics.median(ratios), 3)}
    for name, ranks in (("on_ray", 1), ("two_ranks_on_ray", 2)):
        under_ray = [job_over_bare(arguments, commands["bare"], ranks) for _ in range(arguments.jobs)]
        result[f"{name}_vs_bare_pytorch"] = round(statistics.median(under_ray), 3)
    print(json.dumps(result))


def job_over_bare(arguments: argparse.Namespace, bare: list[str], ranks: int) -> float:
    """Median step of the bare loop, before and after the job, over that of the job."""
    around: list[float] = []
    seconds: list[float] = []
    turns = take_turns({"bare": bare}, WARM_UP_STEPS, JOB_STEPS)
    for number, (counts, results) in enumerate(turns):
        if counts:
            around.append(results["bare"]["seconds"])
        if number == WARM_UP_STEPS + JOB_STEPS // 2 - 1:
            seconds = job_under_ray(arguments, ranks)
    ratio = statistics.median(around) / statistics.median(seconds)
    print(
        f"{ranks} ranks on Ray: {statistics.median(seconds):.2f} s a step, bare {statistics.median(around):.2f}, {ratio:.3f}"
    )
    return ratio


def job_under_ray(arguments: argparse.Namespace, ranks: int) -> list[float]:
    """Seconds of the steps of a training job, those after the warm-up."""
    from cluster.artifacts import artifact_directory
    from cluster.session import connect
    from cluster.storage import Store
    from configs.schema.run import Cluster
    from configs.schema.training import Checkpoints, LanguageModelStage, Optimizer, Resources
    from jobs.train.loop import TrainJob
    from jobs.train.ray_host import Listener, train_on_ray

    threads = max(1, arguments.threads // ranks)
    stage = LanguageModelStage(
        stage="cpt", model="base", shards="rows", steps=WARM_UP_STEPS + JOB_STEPS, batch_tokens=ROWS * data.CONTEXT,
        micro_batch_tokens=data.ROWS_PER_MICRO_BATCH * data.CONTEXT, optimizer=Optimizer(learning_rate=1e-5),
        checkpoints=Checkpoints(every_steps=1000), resources=Resources(ranks=ranks, threads_per_rank=threads),
    )  # fmt: skip
    seen: list[float] = []
    with tempfile.TemporaryDirectory() as scratch, connect(Cluster()):
        shards = data.write_shards(Store(f"{scratch}/shards"), rows_of(arguments))
        artifact = artifact_directory(Store(scratch), "cpt", "0" * 16)
        artifact.write_json("lease/000001.json", {})
        job = TrainJob(
            "overhead", stage, 1, Store(str(Path(arguments.model).absolute())), shards, data.CONTEXT,
            WARM_UP_STEPS + JOB_STEPS, artifact, 1, artifact.below("attempts", "000001"),
        )  # fmt: skip
        train_on_ray(
            job, Listener(lambda metrics: seen.append(metrics["step_s"]), lambda sentence: None, lambda: False)
        )
    assert len(seen) == WARM_UP_STEPS + JOB_STEPS, seen
    return seen[WARM_UP_STEPS:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(data.MODEL))
    parser.add_argument("--rows", help="directory with shard-*.parquet; random rows without it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=3, help="under Ray, of each kind")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--side", choices=["learner", "bare"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    serve(arguments) if arguments.side else compare(arguments)


if __name__ == "__main__":
    main()
