"""Training speed of the Learner over bare PyTorch: same model, rows, head, precision and optimizer; no FSDP, no Ray.

    python tests/benchmarks/train_overhead.py --model DIR [--rows SHARDS] [--rounds 5]

Both sides live in one process each, started once; rounds are interleaved A B A B, one optimizer step of 4,096 tokens each,
because the same command drifts by up to 40 % within an hour on a shared machine. Each side has all threads while the other
waits. Both get the same allocator (tcmalloc where it is installed). Last line: {"vs_bare_pytorch": median of the ratios}.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[2]
TCMALLOC = Path("/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4")
CONTEXT = 1024
ROWS_PER_MICRO_BATCH = 2
MICRO_BATCHES = 2
"""2 x 2 rows of 1,024 tokens: the 4,096 tokens of an optimizer step that the comparison is defined for."""
WARM_UP_STEPS = 2
LEARNING_RATE = 1e-5


def random_rows(vocabulary: int) -> list:
    """Rows of random tokens in segments of 100 to 400, about as long as abstracts; content does not change the speed."""
    from jobs.records import PackedRow

    generator = random.Random(0)
    rows = []
    for _ in range(ROWS_PER_MICRO_BATCH * MICRO_BATCHES):
        lengths: list[int] = []
        while sum(lengths) < CONTEXT:
            lengths.append(min(generator.randint(100, 400), CONTEXT - sum(lengths)))
        weights = [float(index > 0) for length in lengths for index in range(length)]
        tokens = [generator.randrange(vocabulary) for _ in range(CONTEXT)]
        rows.append(PackedRow(tokens, weights, lengths, [0] * len(lengths)))
    return rows


def read_rows(shards: Path) -> list:
    """The fullest rows of Parquet shards."""
    import pyarrow.parquet as parquet

    from jobs.records import PackedRow

    columns = ["input_ids", "weights", "segment_lengths", "document_ids"]
    records = parquet.read_table(sorted(shards.rglob("shard-*.parquet")), columns=columns).to_pylist()
    records.sort(key=lambda record: -len(record["input_ids"]))
    return [PackedRow(**record) for record in records[: ROWS_PER_MICRO_BATCH * MICRO_BATCHES]]


def micro_batches(arguments: argparse.Namespace) -> list:
    from jobs.train.batch import pack_rows

    vocabulary = json.loads(Path(arguments.model, "config.json").read_text())["vocab_size"]
    rows = read_rows(Path(arguments.rows)) if arguments.rows else random_rows(vocabulary)
    return [
        pack_rows(rows[start : start + ROWS_PER_MICRO_BATCH]) for start in range(0, len(rows), ROWS_PER_MICRO_BATCH)
    ]


def learner_side(arguments: argparse.Namespace):
    """The engine as every host runs it, on one rank."""
    import torch.distributed as dist

    from cluster.storage import open_store
    from configs.schema.training import Optimizer
    from jobs.train.fsdp import build_mesh
    from jobs.train.learner import Learner, LearnerSpec
    from jobs.train.objectives.lm import next_token_loss

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    learner = Learner(LearnerSpec(open_store(arguments.model), "bf16", Optimizer()), build_mesh(1))
    learner.load()

    def step(batches: list, denominator: float) -> float:
        loss_function = partial(next_token_loss, denominator=denominator)
        return learner.step(LEARNING_RATE, learner.forward_backward(batches, loss_function)).loss

    return step


def bare_side(arguments: argparse.Namespace):
    """A training loop as one would write it: bf16 weights to compute with, fp32 masters, gradients added up in fp32."""
    import torch
    from transformers import AutoModelForCausalLM

    from jobs.train.attention import ATTENTION_NAME, register
    from jobs.train.model import PackedModel
    from jobs.train.objectives.lm import next_token_loss

    register()
    causal_lm = AutoModelForCausalLM.from_pretrained(
        arguments.model, attn_implementation=ATTENTION_NAME, dtype=torch.bfloat16
    )
    tied = causal_lm.lm_head.weight is causal_lm.model.embed_tokens.weight
    model = PackedModel(causal_lm.model, None if tied else causal_lm.lm_head, None).train()
    weights = list(model.parameters())
    masters = [torch.nn.Parameter(weight.detach().float()) for weight in weights]
    optimizer = torch.optim.AdamW(masters, lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True)

    def step(batches: list, denominator: float) -> float:
        loss = 0.0
        for batch in batches:
            share = next_token_loss(model(batch, 1.0).values, batch, denominator).loss
            share.backward()
            loss += float(share)
            for weight, master in zip(weights, masters, strict=True):
                gradient = weight.grad.float()
                master.grad = gradient if master.grad is None else master.grad.add_(gradient)
                weight.grad = None
        torch.nn.utils.clip_grad_norm_(masters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_copy_(weights, masters)
        return loss

    return step


def serve(arguments: argparse.Namespace) -> None:
    """One side: a line in, one optimizer step, its seconds and loss out."""
    sys.path.insert(0, str(ROOT))
    from jobs.train.fsdp import set_threads

    set_threads(arguments.threads)
    batches = micro_batches(arguments)
    denominator = sum(float(batch.weights_T.sum()) for batch in batches)
    step = learner_side(arguments) if arguments.side == "learner" else bare_side(arguments)
    for _ in sys.stdin:
        start = time.perf_counter()
        loss = step(batches, denominator)
        print(json.dumps({"seconds": time.perf_counter() - start, "loss": loss}), flush=True)


def start_side(side: str, arguments: argparse.Namespace) -> subprocess.Popen:
    environment = {**os.environ, **({"LD_PRELOAD": str(TCMALLOC)} if TCMALLOC.exists() else {})}
    command = [
        sys.executable,
        __file__,
        "--side",
        side,
        "--model",
        arguments.model,
        "--threads",
        str(arguments.threads),
    ]
    command += ["--rows", arguments.rows] if arguments.rows else []
    return subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def one_step(process: subprocess.Popen) -> dict[str, float]:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("step\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def compare(arguments: argparse.Namespace) -> None:
    sides = {side: start_side(side, arguments) for side in ("learner", "bare")}
    try:
        for number in range(WARM_UP_STEPS):
            first = {side: one_step(process) for side, process in sides.items()}
            print(
                f"warm-up {number}: " + ", ".join(f"{side} {result['loss']:.5f}" for side, result in first.items()),
                flush=True,
            )
            difference = abs(first["learner"]["loss"] - first["bare"]["loss"])
            assert difference < 2e-2, f"the two sides do not compute the same: {first}"
        tokens = sum(len(batch.input_ids_T) for batch in micro_batches(arguments))
        ratios = []
        for number in range(arguments.rounds):
            order = ("learner", "bare") if number % 2 == 0 else ("bare", "learner")
            seconds = {side: one_step(sides[side])["seconds"] for side in order}
            ratios.append(seconds["bare"] / seconds["learner"])
            speeds = ", ".join(f"{side} {tokens / seconds[side]:.0f} tok/s" for side in sides)
            print(f"round {number}: {speeds}, ratio {ratios[-1]:.3f}", flush=True)
    finally:
        for process in sides.values():
            assert process.stdin is not None
            process.stdin.close()
            process.wait()
    print(json.dumps({"vs_bare_pytorch": round(statistics.median(ratios), 3)}))


def main() -> None:
    sys.path.insert(0, str(ROOT))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / "artifacts/assets/smollm2-135m-instruct"))
    parser.add_argument("--rows", help="directory with shard-*.parquet; random rows without it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--side", choices=["learner", "bare"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    serve(arguments) if arguments.side else compare(arguments)


if __name__ == "__main__":
    main()
