"""Training speed and memory beside the peers: transformers.Trainer, TRL and bare PyTorch, on the same data in bf16.

    python tests/benchmarks/train.py [--model DIR] [--rounds 5] [--only sft_vs_hf_trainer dpo_vs_trl ...]

    sft  real abstracts: the engine and transformers.Trainer (padded), TRL (padded; packed by bfd), a bare loop
    dpo  pairs of 128 + 128 tokens, the reference's log-probabilities known: the engine and TRL, a bare loop
    two ranks of one thread each, and one process of two threads, 4,096 tokens a step

Each contender is a process of its own; two take turns, one optimizer step each, and a ratio is the median over the rounds: how
many times faster the engine is. Memory: its peak over TRL's, the worse of two. Last line: one JSON object.
"""

import argparse
import json
import os
import statistics
import sys
import time
from functools import cache, partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.benchmarks import training_data as data  # noqa: E402 - the checkout is not on a script's path
from tests.benchmarks.side_by_side import Turns, take_turns  # noqa: E402

RACES = {
    "sft_vs_hf_trainer": ("hf_padded", "learner"),
    "sft_vs_trl_padded": ("trl_padded", "learner"),
    "sft_vs_trl_packed": ("trl_packed", "learner"),
    "dpo_vs_trl": ("trl_dpo", "learner_dpo"),
    "dpo_vs_bare": ("bare_dpo", "learner_dpo"),
    "vs_bare_pytorch": ("bare", "learner"),
    "two_ranks_vs_two_threads": ("one_process", "two_ranks"),
}
"""Ratio: who it compares. Two at a time: all of them together need more than 24 GiB."""
Round = dict[str, dict[str, float]]
"""Contender -> what it reported."""
ROWS_OF_RANKS = 4
WARM_UP_ROUNDS = 2
"""The moments are made in the first step, so only the second one asks for the most memory."""
LOSS_DIFFERENCE = 0.05
"""Contenders differ in rounding, and transformers.Trainer does not learn end tokens that are padding too: 0.01 nat here."""


def language_model_work(rows: list) -> tuple[list, Any]:
    """(micro-batches, loss function) of a step over packed rows."""
    from jobs.train.objectives.lm import next_token_loss

    denominator = sum(sum(row.weights) for row in rows)
    return data.micro_batches_of(rows), partial(next_token_loss, denominator=denominator)


def rows_of_rank(model: str, rank: int) -> tuple[list, Any]:
    """Half of the step's rows, as one micro-batch, and the loss over all of them."""
    rows = data.random_rows(data.vocabulary_of(model), ROWS_OF_RANKS)
    batches, loss_function = language_model_work(rows)
    return [batches[rank]], loss_function


def dpo_work(learner: Any, rows: list) -> tuple[list, Any, list[list[float]]]:
    """(micro-batches, loss function, references), the references by the model as it is now."""
    from configs.schema.objectives import DpoLoss
    from jobs.train.examples import pack_examples
    from jobs.train.objectives.dpo import dpo_loss

    known = [learner_references(learner, row) for row in rows]
    half = len(rows) // 2
    batches = [pack_examples(rows[:half], known[:half]), pack_examples(rows[half:], known[half:])]
    return batches, partial(dpo_loss, settings=DpoLoss(), examples=len(rows), best_tokens=1), known


def learner_references(learner: Any, row: Any) -> list[float]:
    from jobs.train.examples import pack_examples

    batch = pack_examples([row])
    return batch.answers.answer_logprobs(learner.forward(batch)).tolist()


def serve(arguments: argparse.Namespace) -> None:
    """One contender."""
    turns = Turns()
    from jobs.train.fsdp import set_threads

    set_threads(arguments.threads)
    model, side = arguments.model, arguments.side
    if side in ("hf_padded", "trl_padded", "trl_packed", "trl_dpo"):
        serve_peer(arguments, turns)
        return
    from tests.benchmarks import engines

    if side == "two_ranks":
        ranks = engines.TwoRanks(model, partial(rows_of_rank, model))
        while turns.wait():
            began = time.perf_counter()
            loss = ranks.step()
            turns.report(time.perf_counter() - began, loss, state_mib=engines.state_bytes(ranks.learner) / 2**20)
        ranks.close()
        return
    learner = None if side == "bare" else engines.learner_on_one_rank(model)
    if side in ("learner", "bare"):
        work = language_model_work(data.packed_documents(model, arguments.documents))
    elif side == "one_process":
        work = language_model_work(data.random_rows(data.vocabulary_of(model), ROWS_OF_RANKS))
    else:
        work = dpo_work(learner, data.pairs(model, arguments.pairs))[:2]
    if side.startswith("bare"):
        learner = None
    step = engines.bare_step(model) if learner is None else engines.learner_step(learner)
    while turns.wait():
        began = time.perf_counter()
        loss = step(*work)
        state = 0 if learner is None else engines.state_bytes(learner)
        turns.report(time.perf_counter() - began, loss, state_mib=state / 2**20)


def serve_peer(arguments: argparse.Namespace, turns: Turns) -> None:
    from tests.benchmarks import engines, peers

    model, weights = arguments.model, arguments.peer_weights
    if arguments.side == "trl_dpo":
        rows = data.pairs(model, arguments.pairs)
        references = dpo_work(engines.learner_on_one_rank(model), rows)[2]
        peers.trl_dpo(model, rows, references, weights, turns)
        return
    documents = data.documents(model, arguments.documents)
    if arguments.side == "hf_padded":
        peers.hf_padded(model, documents, weights, turns)
    elif arguments.side == "trl_padded":
        peers.trl_padded(model, documents, weights, turns)
    else:
        peers.trl_packed(model, documents, weights, turns)


def race(peer: str, ours: str, arguments: argparse.Namespace) -> list[Round]:
    """What both reported in every round that counts."""
    options = [
        "--model", arguments.model, "--threads", str(arguments.threads), "--documents", str(arguments.documents),
        "--pairs", str(arguments.pairs), "--peer-weights", arguments.peer_weights,
    ]  # fmt: skip
    commands = {side: [sys.executable, __file__, "--side", side, *options] for side in (ours, peer)}
    rounds: list[Round] = []
    for counts, results in take_turns(commands, WARM_UP_ROUNDS, arguments.rounds):
        shown = ", ".join(
            f"{side} {amount_of(side, arguments) / result['seconds']:.2f}/s, loss {result['loss']:.4f}, "
            f"peak {result['peak_mib']:.0f} MiB"
            for side, result in results.items()
        )
        ratio = results[peer]["seconds"] / results[ours]["seconds"]
        name = f"round {len(rounds)}" if counts else "warm-up"
        print(f"{name}: {shown}; ratio {ratio:.3f}", file=sys.stderr, flush=True)
        if counts:
            rounds.append(results)
        else:
            difference = abs(results[peer]["loss"] - results[ours]["loss"])
            assert difference < LOSS_DIFFERENCE, f"the two do not compute the same: {results}"
    return rounds


@cache
def real_tokens(model: str, documents: int) -> int:
    return sum(map(len, data.documents(model, documents)))


def amount_of(side: str, arguments: argparse.Namespace) -> int:
    """Of a step: pairs or real tokens."""
    if side.endswith("dpo"):
        return arguments.pairs
    if side in ("one_process", "two_ranks"):
        return ROWS_OF_RANKS * data.CONTEXT
    return real_tokens(arguments.model, arguments.documents)


def compare(arguments: argparse.Namespace) -> dict[str, float]:
    ratios: dict[str, float] = {}
    memory: list[float] = []
    for key in arguments.only:
        peer, ours = RACES[key]
        rounds = race(peer, ours, arguments)
        ratios[key] = statistics.median(results[peer]["seconds"] / results[ours]["seconds"] for results in rounds)
        print(f"{key}: {ratios[key]:.3f}", file=sys.stderr, flush=True)
        last = rounds[-1]
        if peer in ("trl_padded", "trl_packed"):
            memory.append(last[ours]["peak_mib"] / last[peer]["peak_mib"])
        if key == "two_ranks_vs_two_threads":
            share = last[ours]["state_mib"] / last[peer]["state_mib"]
            print(f"masters and moments of one of two ranks: {share:.3f} of the whole", file=sys.stderr)
    if memory:
        ratios["peak_memory_vs_trl"] = max(memory)
    ratios.pop("dpo_vs_bare", None)  # of no peer; it is on its line above
    return {key: round(ratio, 3) for key, ratio in ratios.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(data.MODEL))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=list(RACES), default=list(RACES))
    parser.add_argument("--documents", type=int, default=16, help="of an optimizer step: about 4,500 tokens")
    parser.add_argument("--pairs", type=int, default=8, help="of an optimizer step")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--peer-weights", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument(
        "--side", choices=sorted({side for sides in RACES.values() for side in sides}), help=argparse.SUPPRESS
    )
    arguments = parser.parse_args()
    if arguments.side:
        serve(arguments)
    else:
        print(json.dumps(compare(arguments)))


if __name__ == "__main__":
    main()
