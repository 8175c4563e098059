"""A step of PPO with four 135M models, beside its own bare parts and beside TRL 1.12, on two cores in bf16.

    python tests/benchmarks/ppo.py [--model DIR] [--rounds 3] [--shapes fixed natural] [--races parts trl] [--without-table]

    ours        the shipped driver through Ray, roles colocated; a step by the wall clock, everything in it
    bare_vllm   LLM.generate of as many tokens for the same prompts, without seeds and log-probabilities
    bare_torch  plain PyTorch on the same packed rows: forwards of reference, reward, critic and old policy, both training steps
    trl         TRL's PPOTrainer on prompts of the same shape

Every contender is a process of its own; two at a time take turns, one step each, with the same allocator, because all of them
together need more than 24 GiB: ours and bare vLLM, ours and bare PyTorch, ours and TRL. One epoch, one minibatch, new
heads for reward and critic, learning rates so small that answers stay as long as they are. Shapes: fixed, 32 x 64 + 64 tokens
without an end; natural, 16 prompts of 16 to 256 tokens whose answers end by themselves or at 256. There each side samples answers
of its own, so TRL is compared by the time for one real token of prompts and answers; padding counts for nobody.

    step_vs_parts         our step over bare_vllm + bare_torch, each as a share of ours, fixed  wanted at most 1.10
    generate_vs_trl       sampled tokens a second over TRL's, fixed                             at least 2
    step_vs_trl_*         how many times faster than TRL a step is                              at least 1 and 1.5
    rollout_vs_bare_vllm  tokens a second over bare vLLM's, fixed                               at least 0.95
    weight_sync_share, driver_cpu_share   of our step, fixed                                    at most 0.05, 0.02

Ratios are medians over the rounds. Before the last line: time by role and phase, synchronous and overlapped (there sampling and
learning have a thread each), and the driver's time for a handle with 4 and 32 light actors. Last line: one JSON object.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.benchmarks import ppo_bare, ppo_driver, ppo_ours, ppo_trl, training_data  # noqa: E402 - a script's path
from tests.benchmarks.ppo_work import SHAPES  # noqa: E402
from tests.benchmarks.side_by_side import Turns, take_turns  # noqa: E402

RACES = {"vllm": ("bare_vllm", "ours"), "torch": ("bare_torch", "ours"), "trl": ("trl", "ours")}
"""Who takes turns with whom. The last goes first: the bare parts need the answers of its step."""
OF_SHAPE = {"vllm": ("fixed",), "torch": ("fixed",), "trl": ("fixed", "natural")}
SIDES = sorted({side for sides in RACES.values() for side in sides})
WARM_UP_ROUNDS = 1
TABLE_STEPS = 4
"""Of which the first is not counted."""
OVERLAPPED: dict[str, Any] = {
    "staleness": 1,
    "resources": {"placement": "separate", "rollout": {"kv_cache_gib": 1, "max_num_seqs": 64}},
}
"""Every role has one thread, so that sampling and learning have a core each."""
PLAIN = ("generate", "score", "update", "tokens", "prompt_tokens")
Round = dict[str, dict[str, float]]


def serve(arguments: argparse.Namespace) -> None:
    """One contender."""
    turns = Turns()
    shape, scratch = SHAPES[arguments.shapes[0]], Path(arguments.scratch)
    model, threads = arguments.model, arguments.threads
    match arguments.side:
        case "ours":
            ppo_ours.serve(shape, model, threads, scratch, turns)
        case "overlapped":
            ppo_ours.serve(shape, model, threads, scratch, turns, **OVERLAPPED)
        case "bare_vllm":
            ppo_bare.serve_vllm(model, threads, scratch, turns)
        case "bare_torch":
            ppo_bare.serve_torch(model, threads, scratch, turns)
        case "trl":
            ppo_trl.serve(shape, model, threads, scratch, turns)
        case "driver":
            ppo_driver.serve(turns)


def race(sides: tuple[str, ...], shape: str, rounds: int, arguments: argparse.Namespace) -> list[Round]:
    """What all of them reported in every round that counts."""
    with tempfile.TemporaryDirectory(prefix="ppo-benchmark-") as scratch:
        options = [
            "--model", arguments.model, "--threads", str(arguments.threads), "--shapes", shape, "--scratch", scratch,
        ]  # fmt: skip
        commands = {side: [sys.executable, __file__, "--side", side, *options] for side in sides}
        counted: list[Round] = []
        for counts, results in take_turns(commands, WARM_UP_ROUNDS, rounds):
            name = f"{shape}, round {len(counted)}" if counts else f"{shape}, warm-up"
            shown = ", ".join(f"{side} {result['seconds']:.2f} s" for side, result in results.items())
            print(f"{name}: {shown}", flush=True)
            if counts:
                counted.append(results)
        return counted


def median(rounds: list[Round], number: Any) -> float:
    return statistics.median(number(results) for results in rounds)


def sampled_per_s(results: Round) -> float:
    return results["ours"]["tokens"] / results["ours"]["busy/rollout/sample_s"]


def beside_trl(rounds: list[Round]) -> dict[str, float]:
    """Ratios of one shape."""

    def per_token_s(side: dict[str, float]) -> float:
        return side["seconds"] / (side["prompt_tokens"] + side["tokens"])

    return {
        "generate_vs_trl": median(rounds, lambda r: sampled_per_s(r) / (r["trl"]["tokens"] / r["trl"]["generate"])),
        "step_vs_trl": median(rounds, lambda r: per_token_s(r["trl"]) / per_token_s(r["ours"])),
    }


def share_of_ours(rounds: list[Round], side: str) -> float:
    return median(rounds, lambda r: r[side]["seconds"] / r["ours"]["seconds"])


def beside_vllm(rounds: list[Round]) -> dict[str, float]:
    """Ratios and shares of one shape."""
    return {
        "vllm_share": share_of_ours(rounds, "bare_vllm"),
        "rollout_vs_bare_vllm": median(
            rounds, lambda r: sampled_per_s(r) * r["bare_vllm"]["seconds"] / r["bare_vllm"]["tokens"]
        ),
        "weight_sync_share": median(rounds, lambda r: r["ours"]["time/sync_s"] / r["ours"]["seconds"]),
        "driver_cpu_share": median(rounds, lambda r: r["ours"]["time/driver_cpu_s"] / r["ours"]["seconds"]),
    }


def beside_torch(rounds: list[Round]) -> dict[str, float]:
    return {"torch_share": share_of_ours(rounds, "bare_torch")}


BESIDE = {"vllm": beside_vllm, "torch": beside_torch, "trl": beside_trl}


def print_phases(title: str, rounds: list[Round], side: str) -> None:
    """Medians of the seconds of every phase."""
    names = [
        name for name in rounds[0][side]
        if name == "seconds" or name.endswith("_s") or name in PLAIN or "idle/" in name
    ]  # fmt: skip
    print(f"\n{title}")
    for name in sorted(names):
        print(f"    {name:32}{median(rounds, lambda r, name=name: r[side][name]):12.6g}")
    sys.stdout.flush()


def compare(arguments: argparse.Namespace) -> dict[str, float]:
    ppo_trl.fetch()
    found: dict[str, dict[str, float]] = {}
    for shape in arguments.shapes:
        found[shape] = {}
        for name in (name for name in arguments.races if shape in OF_SHAPE[name]):
            rounds = race(RACES[name], shape, arguments.rounds, arguments)
            for side in RACES[name]:
                print_phases(f"{shape}: {side}", rounds, side)
            found[shape] |= BESIDE[name](rounds)
        print(f"\n{shape}: " + json.dumps({name: round(value, 4) for name, value in found[shape].items()}), flush=True)
    if not arguments.without_table:
        print_phases("fixed, overlapped", race(("overlapped",), "fixed", TABLE_STEPS, arguments), "overlapped")
        print_phases("driver, seconds of CPU a handle", race(("driver",), "fixed", 1, arguments), "driver")
    results = {**found.get("fixed", {})}
    results.pop("step_vs_trl", None)
    shares = [results.pop(name, 0.0) for name in ("vllm_share", "torch_share")]
    if all(shares):
        results["step_vs_parts"] = 1 / sum(shares)
    results |= {f"step_vs_trl_{shape}": of["step_vs_trl"] for shape, of in found.items() if "step_vs_trl" in of}
    return {name: round(value, 4) for name, value in results.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(training_data.MODEL))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--races", nargs="+", choices=list(RACES), default=list(RACES))
    parser.add_argument("--without-table", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--side", choices=[*SIDES, "overlapped", "driver"], help=argparse.SUPPRESS)
    parser.add_argument("--scratch", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        serve(arguments)
    else:
        print(json.dumps(compare(arguments)))


if __name__ == "__main__":
    main()
