"""Whether PPO learns: its reward against that of best-of-n at equal KL, and what becomes of the true reward beyond.

    python tests/benchmarks/ppo_learning.py [--seeds 1 2 3] [--only gain over direct direct_lora]

    instructions --> questions that ask for one sentence, so that most answers end
    base model --6 answers a prompt--> pairs by formula --acclimate run proxy.yaml--> reward model (proxy)
    base model --16 answers a held-out prompt, judged by both--> best-of-n: score at KL log n - (n - 1)/n
    ppo_runs/{gain,over,direct*}.yaml --acclimate run--> history: held-out score, gold score and KL every few steps

The true (gold) reward is a formula: the reading ease of an answer, in `over` times how near it is to 20 words. The pairs are
constructed by it and judged by nobody. `gain` is PPO against the proxy, `direct` GRPO on the formula itself (`direct_lora`: by
adapters), `over` PPO far past the use of a proxy that has seen long answers only: it pays for shortness on and on, and the gold
reward, which rose at first, falls (Gao et al. 2022, arXiv 2210.10760). Draws artifacts/ppo_learning/over_optimisation.svg. Last
line, medians over the seeds: {"gain_vs_best_of_n": r, ...}. Wanted: >= 0.9 for both gains, gains at the same length above 0 for
every seed, and a proxy that is higher, a gold reward that is lower than where the gold reward was best.

    gain_vs_best_of_n    rise of the held-out score over that of best-of-n at the same KL, at the last evaluation whose KL is on
                         the curve of best-of-n
    gain_at_same_length  rise of the held-out score where the length stays what it was
    kl                   nats an answer at the last evaluation
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from cluster.artifacts import find_named  # noqa: E402 - the checkout is not on a script's path
from cluster.storage import Store, open_store  # noqa: E402
from jobs.ppo.example_rewards import WANTED_WORDS, reading_ease, short_and_easy  # noqa: E402
from jobs.ppo.prompts import read_prompts, requests_for  # noqa: E402
from jobs.records import PromptRow, Rollout, Sampling  # noqa: E402

RUNS = "tests/benchmarks/ppo_runs"
ON_FORMULAS = {"direct": reading_ease, "direct_lora": reading_ease}
PROXIES = {"gain": ("proxy", reading_ease, 0), "over": ("narrow_proxy", short_and_easy, WANTED_WORDS)}
"""The reward model a run learns from, the formula its pairs are made by, and how many words both answers of a pair have at
least: the narrow one has seen no answer shorter than the formula wants, and believes that shorter is better."""
RUNS_NAMED = [*PROXIES, *ON_FORMULAS]
NEW_TOKENS, HELDOUT_PROMPTS = 64, 100
"""As in gain.yaml."""
LONGEST_QUESTION = 160
"""Characters."""
BEST_OF = 16
PAIRS_A_PROMPT = 3
LEAST_DIFFERENCE = 0.05
"""Pairs that the formula hardly tells apart teach nothing."""
OUTPUT = ROOT / "artifacts" / "ppo_learning"
CALL_S = 1200.0

Curve = list[tuple[float, float]]
"""(KL, score), by rising KL."""


def acclimate(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "jobs.cli", *arguments], cwd=ROOT, check=True)


def run(config: str, *overrides: str) -> None:
    acclimate("run", f"{RUNS}/{config}.yaml", "--yes", *overrides)


def write_questions(file: Path) -> None:
    """Every short instruction without a text to it, asked for one sentence."""
    rows = json.loads((ROOT / "artifacts/assets/instructions/alpaca_en_demo.json").read_text())
    asked = [row for row in rows if not row["input"] and len(row["instruction"]) <= LONGEST_QUESTION]
    questions = [
        {"instruction": f"Answer in one short sentence: {row['instruction']}", "output": row["output"]} for row in asked
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(questions))


def sample(model: Store, prompts: Sequence[PromptRow], answers: int) -> list[list[Rollout]]:
    """Answers of the base model by prompt, in the order of the prompts."""
    from jobs.ppo.vllm_engine import EngineSpec
    from tests.ppo.engine_process import engine_process

    requests = requests_for(prompts, answers, "ppo_learning", answers)
    sampling = Sampling(1.0, NEW_TOKENS, _ends(model))
    with engine_process(EngineSpec(model, "bfloat16", 256, 1.0, max_num_seqs=64, threads=2)) as engine:
        groups = engine.run(_generated, requests, sampling, timeout_s=CALL_S)
    return sorted(groups, key=lambda group: group[0].prompt_id)


def _generated(engine: Any, requests: Any, sampling: Sampling) -> list[list[Rollout]]:
    return list(engine.generate(requests, sampling))


def _ends(model: Store) -> tuple[int, ...]:
    from jobs.corpus.template import end_token_ids

    return tuple(sorted(end_token_ids(model, _tokenizer(model))))


def _tokenizer(model: Store) -> Any:
    from jobs.corpus.segments import load_tokenizer, read_tokenizer_files

    return load_tokenizer(read_tokenizer_files(model, False))


def formula_scores(formula: Any, model: Store, groups: Sequence[Sequence[Rollout]]) -> list[list[float]]:
    """Of every answer by prompt."""
    tokenizer = _tokenizer(model)

    def said(rollout: Rollout) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": tokenizer.decode(rollout.answer_ids, skip_special_tokens=True)}]

    return [
        formula([said(answer) for answer in group], finished=[answer.finished for answer in group]) for group in groups
    ]


def proxy_scores(proxy: Store, groups: Sequence[Sequence[Rollout]]) -> list[list[float]]:
    """Of every answer by prompt, by the reward model as PPO scores with it."""
    from jobs.corpus.template import written_end
    from jobs.evaluate.scorer import lone_rank
    from jobs.ppo.ranks import scores_of_answers
    from jobs.train.fsdp import build_mesh, set_threads
    from jobs.train.learner import Learner, LearnerSpec

    set_threads(2)
    end = written_end(_tokenizer(proxy), _ends(proxy))
    with lone_rank():
        learner = Learner(LearnerSpec(proxy, "bf16", None, head="scores"), build_mesh(1))
        learner.load()
        found = scores_of_answers(learner, [list(group) for group in groups], len(groups[0]), end)
    return [[found[group[0].prompt_id * len(group) + sample] for sample in range(len(group))] for group in groups]


def draw_pairs(model: Store, prompts: Sequence[PromptRow], directory: Path) -> None:
    """Writes the pairs that each proxy's formula prefers, of the same answers."""
    groups = [
        group[first : first + 2]
        for group in sample(model, prompts, 2 * PAIRS_A_PROMPT)
        for first in range(0, len(group), 2)
    ]
    asked = [prompt for prompt in prompts for _ in range(PAIRS_A_PROMPT)]
    for proxy, formula, words in PROXIES.values():
        _write_pairs(model, asked, groups, formula_scores(formula, model, groups), words, directory / f"{proxy}.jsonl")


def _write_pairs(
    model: Store,
    asked: Sequence[PromptRow],
    groups: Sequence[list[Rollout]],
    scores: list[list[float]],
    words: int,
    file: Path,
) -> None:
    tokenizer, rows = _tokenizer(model), []
    for prompt, group, (first, second) in zip(asked, groups, scores, strict=True):
        if abs(first - second) < LEAST_DIFFERENCE or not all(answer.finished for answer in group):
            continue
        texts = [tokenizer.decode(answer.answer_ids, skip_special_tokens=True) for answer in group]
        if min(len(text.split()) for text in texts) < words:
            continue
        chosen, rejected = texts if first > second else reversed(texts)
        rows.append({
            "prompt": json.loads(prompt.messages), "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
        })  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{file.name}: {len(rows)} pairs of {len(asked)}", flush=True)


def best_of_n(scores: Sequence[Sequence[float]]) -> Curve:
    """The expected best of n of all N answers to a prompt, mean over prompts, for n = 1 .. N; without bias (order statistics).

    KL of best-of-n: log n - (n - 1) / n nats (Stiennon et al. 2020, appendix G.3).
    """
    ordered = np.sort(np.array(scores), axis=1)
    total = ordered.shape[1]
    curve = []
    for n in range(1, total + 1):
        chance = [
            math.comb(place, n - 1) / math.comb(total, n) for place in range(total)
        ]  # that place is the best of n
        curve.append((math.log(n) - (n - 1) / n, float((ordered * chance).sum(axis=1).mean())))
    return curve


def evaluations(seed: int | None, config: str) -> list[dict[str, float]]:
    """Runs and returns the lines of history with held-out numbers."""
    run(config, *([] if seed is None else [f"seed={seed}"]))
    history = find_named(open_store(str(ROOT / "artifacts")), "ppo").content.read_json("history.json")
    return [
        {name.removeprefix("heldout/"): value for name, value in entry.items() if not name.startswith("heldout/start_")}
        for entry in history
        if "heldout/score" in entry
    ]


def against(curve: Curve, seen: Sequence[dict[str, float]]) -> dict[str, float]:
    """What a run gained, beside best-of-n."""
    start = seen[0]["score"]
    on_curve = [entry for entry in seen[1:] if 0 < entry["kl_per_answer"] <= curve[-1][0]]
    ratios = {}
    if on_curve:
        at = on_curve[-1]
        best = float(np.interp(at["kl_per_answer"], [kl for kl, _ in curve], [score for _, score in curve]))
        ratios["gain_vs_best_of_n"] = (at["score"] - start) / (best - curve[0][1])
    last = seen[-1]
    return {
        **ratios, "gain_at_same_length": last["score_change_at_same_length"], "kl": last["kl_per_answer"],
        "gold_change": last["gold_change"], "tokens": last["tokens"] - seen[0]["tokens"],
    }  # fmt: skip


def draw(seen: Sequence[dict[str, float]], proxy: Curve, gold: Curve, file: Path) -> None:
    """Proxy and gold reward over the root of the KL, as the paper draws them; each as its rise over the base model."""
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharex=True)
    for axis, name, curve in zip(axes, ("score", "gold"), (proxy, gold), strict=True):
        roots = [math.sqrt(max(0.0, entry["kl_per_answer"])) for entry in seen]
        axis.plot(roots, [entry[name] - seen[0][name] for entry in seen], marker="o", label="PPO")
        axis.plot(
            [math.sqrt(kl) for kl, _ in curve],
            [s - curve[0][1] for _, s in curve],
            "--",
            label="best-of-n, chosen by this score",
        )
        axis.set_xlabel("square root of the KL to the base model, nats an answer")
        axis.set_title("reward model (proxy), change" if name == "score" else "short and easy (gold), change")
        axis.grid(alpha=0.3)
    axes[0].legend()
    plt.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    plt.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", nargs="+", choices=RUNS_NAMED, default=RUNS_NAMED)
    options = parser.parse_args()
    store = open_store(str(ROOT / "artifacts"))
    drawn = ROOT / "artifacts" / "drawn"
    write_questions(drawn / "questions.json")
    run("prompts")
    model, shards = (find_named(store, name).content for name in ("base", "prompts"))
    model = model.below("model")
    groups = sample(model, read_prompts(shards, "heldout").rows[:HELDOUT_PROMPTS], BEST_OF)
    formulas = {formula.__name__: formula for formula in (reading_ease, short_and_easy)}
    curves = {name: best_of_n(formula_scores(formula, model, groups)) for name, formula in formulas.items()}
    for config, (proxy, _, _) in PROXIES.items():
        if config in options.only:
            if not (drawn / f"{proxy}.jsonl").exists():
                draw_pairs(model, read_prompts(shards, "train").rows, drawn)
            run(proxy)
            proxy_model = find_named(store, proxy).content
            print(f"{proxy}: {proxy_model.read_json('history.json')[-1]}", flush=True)
            curves[proxy] = best_of_n(proxy_scores(proxy_model.below("model"), groups))
    print(f"best-of-n: {json.dumps(curves)}", flush=True)
    result: dict[str, Any] = {"best_of_16": {name: curve[-1][1] - curve[0][1] for name, curve in curves.items()}}
    for config, judge in (("gain", "proxy"), *((name, formula.__name__) for name, formula in ON_FORMULAS.items())):
        if config in options.only:
            found = []
            for seed in options.seeds:
                seen = evaluations(seed, config)
                found.append(against(curves[judge], seen))
                print(f"{config}, seed {seed}: {json.dumps(seen)}\n    {json.dumps(found[-1])}", flush=True)
            names = set.intersection(*(set(each) for each in found))
            result[config] = {name: statistics.median(each[name] for each in found) for name in sorted(names)}
            result[config]["least_gain_at_same_length"] = min(each["gain_at_same_length"] for each in found)
    if "over" in options.only:
        seen = evaluations(None, "over")
        draw(seen, curves["narrow_proxy"], curves["short_and_easy"], OUTPUT / "over_optimisation.svg")
        print(f"over: {json.dumps(seen)}", flush=True)
        best = max(seen, key=lambda entry: entry["gold"])
        result["over"] = {
            "proxy_after_best_gold": seen[-1]["score"] - best["score"], "gold_after_best_gold": seen[-1]["gold"] - best["gold"],
            "kl_at_best_gold": best["kl_per_answer"], "kl": seen[-1]["kl_per_answer"],
        }  # fmt: skip
    print(json.dumps(_rounded(result)))


def _rounded(result: Any) -> Any:
    return {name: _rounded(value) for name, value in result.items()} if isinstance(result, dict) else round(result, 4)


if __name__ == "__main__":
    main()
