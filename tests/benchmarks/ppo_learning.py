"""Whether PPO learns: its reward against that of best-of-n at equal KL, and what becomes of the true reward beyond.

    python tests/benchmarks/ppo_learning.py [--seeds 1 2 3] [--only gain few_commas short_ease few_commas_model over]

    instructions --> questions that ask for one sentence; the short ones are answered by the beginnings of answers, 24 tokens
    base model --6 or 16 answers a prompt--> pairs by formula --acclimate run *proxy.yaml--> reward model (proxy)
    base model --32 answers a held-out prompt, judged by each--> best-of-n: score and KL (ppo_best_of_n.py)
    ppo_runs/{gain,over,few_commas*,short_ease}.yaml --acclimate run--> history: held-out score, gold score and KL every few steps

The true (gold) reward is a formula; the pairs are constructed by it and judged by nobody. `few_commas` is GRPO on such a formula,
`short_ease` on one that a policy follows less, `few_commas_model` against a reward model of the first; all three with many small
updates under a KL penalty as large as what is learnt. `gain` is PPO with a critic against a reward model of reading ease, one
update a batch. `over` is PPO far past the use of a proxy that has seen long answers only: it pays for shortness on and on, and
the gold reward, reading ease x nearness to 20 words, which rose at first, falls (Gao et al. 2022, arXiv 2210.10760). Draws
artifacts/ppo_learning/over_optimisation.svg. Pairs that are in artifacts/drawn are kept. Last line, medians over the seeds:
{case: {score_vs_best_of_n: r, ...}}. Wanted: >= 0.9, gains at the same length above 0 for every seed, and a proxy that is higher,
a gold reward that is lower than where the gold reward was best.

    score_vs_best_of_n            rise of the held-out score over that of best-of-n at the same KL by the customary formula, at
                                  the last evaluation whose KL is on its curve
    score_ties_free_vs_best_of_n  the same with the KL that choosing costs where answers score alike, stricter for a formula
    gold_vs_best_of_n             the same of the gold reward, where best-of-n is chosen by the proxy
    gain_at_same_length           rise of the held-out score where the length stays what it was; the least of all seeds, too
    kl, tokens                    nats an answer, and the change of its length, at the last evaluation
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from cluster.artifacts import Artifact, find_named  # noqa: E402 - the checkout is not on a script's path
from cluster.storage import Store, open_store  # noqa: E402
from configs.loader import load_run  # noqa: E402
from jobs.pipeline import plan_run  # noqa: E402
from jobs.ppo.example_rewards import WANTED_WORDS, few_commas, reading_ease, short_and_easy  # noqa: E402
from jobs.ppo.prompts import read_prompts  # noqa: E402
from jobs.records import PromptRow, Rollout  # noqa: E402
from tests.benchmarks.ppo_best_of_n import (  # noqa: E402
    Curve,
    Questions,
    best_of_n,
    formula_scores,
    proxy_scores,
    sample,
    tokenizer_of,
)

RUNS = "tests/benchmarks/ppo_runs"
SENTENCE = Questions("prompts", longest=160, new_tokens=64, before="Answer in one short sentence: ")
SHORT = Questions("short_prompts", longest=65, new_tokens=24, system="Answer in one short sentence.")
"""A prompt of 30 tokens: ten times as many answers in the time."""
HELDOUT_PROMPTS = 100
"""At most. Of short ones there are 80."""
BEST_OF = 32
LEAST_DIFFERENCE = 0.05
"""Pairs that the formula hardly tells apart teach nothing but that they are alike."""
OUTPUT = ROOT / "artifacts" / "ppo_learning"

Formula = Callable[..., list[float]]


@dataclass(frozen=True)
class Proxy:
    """A reward model from pairs by a formula."""

    formula: Formula
    pairs_a_prompt: int
    finished: bool
    """Only pairs of answers that ended by themselves."""
    least_words: int = 0
    """Of both answers of a pair. A proxy that has seen none shorter than the formula wants believes that shorter is better."""
    ties_both_ways: bool = False
    """Pairs that the formula scores alike are given in both orders, as from judges who disagree: the proxy learns to call them
    alike, too, and does not tell them apart by whatever it finds."""


PROXIES = {
    "proxy": Proxy(reading_ease, 3, finished=True),
    "narrow_proxy": Proxy(short_and_easy, 3, finished=True, least_words=WANTED_WORDS),
    "comma_proxy": Proxy(few_commas, 8, finished=False, ties_both_ways=True),
}
CASES = {
    "gain": (SENTENCE, "proxy"), "few_commas": (SHORT, few_commas), "short_ease": (SHORT, reading_ease),
    "few_commas_model": (SHORT, "comma_proxy"), "over": (SENTENCE, "narrow_proxy"),
}  # fmt: skip
"""What a run asks, and its reward: a formula or a proxy."""


def acclimate(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "jobs.cli", *arguments], cwd=ROOT, check=True)


def run(config: str, *overrides: str) -> None:
    acclimate("run", f"{RUNS}/{config}.yaml", "--yes", *overrides)


def draw_pairs(name: str, questions: Questions, model: Store, prompts: Sequence[PromptRow], file: Path) -> None:
    """Writes the pairs that a proxy's formula prefers."""
    proxy = PROXIES[name]
    groups = [
        group[first : first + 2]
        for group in sample(model, prompts, 2 * proxy.pairs_a_prompt, questions.new_tokens)
        for first in range(0, len(group), 2)
    ]
    asked = [prompt for prompt in prompts for _ in range(proxy.pairs_a_prompt)]
    tokenizer, rows = tokenizer_of(model), []
    for prompt, group, (first, second) in zip(asked, groups, formula_scores(proxy.formula, model, groups), strict=True):
        texts = [tokenizer.decode(answer.answer_ids, skip_special_tokens=True) for answer in group]
        tied = abs(first - second) < LEAST_DIFFERENCE
        if (tied and not proxy.ties_both_ways) or texts[0] == texts[1] or not _usable(proxy, group, texts):
            continue
        better = texts if first > second else texts[::-1]
        rows += [
            {"prompt": json.loads(prompt.messages), "chosen": _said(chosen), "rejected": _said(rejected)}
            for chosen, rejected in ((better, better[::-1]) if tied else (better,))
        ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{file.name}: {len(rows)} pairs of {len(asked)}", flush=True)


def _said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _usable(proxy: Proxy, group: Sequence[Rollout], texts: Sequence[str]) -> bool:
    ended = all(answer.finished for answer in group) or not proxy.finished
    return ended and min(len(text.split()) for text in texts) >= proxy.least_words


def result_of(config: str, stage: str, *overrides: str) -> Artifact:
    """What a stage of a finished run made; by its key, as other runs have stages of that name."""
    store = open_store(str(ROOT / "artifacts"))
    planned = plan_run(load_run(f"{RUNS}/{config}.yaml", overrides).run, store)
    return find_named(store, next(each.key for each in planned if each.name == stage))


def evaluations(config: str, *overrides: str) -> list[dict[str, float]]:
    """Runs and returns the lines of history with held-out numbers."""
    run(config, *overrides)
    history = result_of(config, "ppo", *overrides).content.read_json("history.json")
    return [
        {name.removeprefix("heldout/"): value for name, value in entry.items() if not name.startswith("heldout/start_")}
        for entry in history
        if "heldout/score" in entry
    ]


def against(curves: dict[str, Curve], seen: Sequence[dict[str, float]]) -> dict[str, float]:
    """What a run gained, beside best-of-n; both from the start of best-of-n's curve, which more answers tell."""
    last = seen[-1]
    found = {
        "gain_at_same_length": last["score_change_at_same_length"], "kl": last["kl_per_answer"],
        "tokens": last["tokens"] - seen[0]["tokens"],
    }  # fmt: skip
    for name, rose in (("score", "score"), ("score_ties_free", "score"), ("gold", "gold")):
        kls, scores = zip(*curves[name], strict=True)
        on_curve = [entry for entry in seen[1:] if 0 < entry["kl_per_answer"] <= kls[-1]]
        if on_curve and rose in last:
            best = float(np.interp(on_curve[-1]["kl_per_answer"], kls, scores))
            found[f"{name}_vs_best_of_n"] = (on_curve[-1][rose] - scores[0]) / (best - scores[0])
    if "gold_change" in last:
        found["gold_change"] = last["gold_change"]
    return found


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


def curves_of(cases: Sequence[str]) -> dict[str, dict[str, Curve]]:
    """Best-of-n of every case by its reward, and what that choice is worth by the formula. Trains the proxies."""
    drawn = ROOT / "artifacts" / "drawn"
    curves: dict[str, dict[str, Curve]] = {}
    for questions in dict.fromkeys(CASES[case][0] for case in cases):
        questions.write(drawn)
        run(questions.name)
        model = result_of(questions.name, "base").content.below("model")
        shards = result_of(questions.name, questions.name).content
        groups = sample(model, read_prompts(shards, "heldout").rows[:HELDOUT_PROMPTS], BEST_OF, questions.new_tokens)
        for case in cases:
            asked, reward = CASES[case]
            if asked is not questions:
                continue
            formula = PROXIES[reward].formula if isinstance(reward, str) else reward
            scores = by_formula = formula_scores(formula, model, groups)
            if isinstance(reward, str):
                if not (pairs := drawn / f"{reward}.jsonl").exists():
                    draw_pairs(reward, questions, model, read_prompts(shards, "train").rows, pairs)
                run(reward)
                proxy = result_of(reward, reward).content
                print(f"{reward}: {proxy.read_json('history.json')[-1]}", flush=True)
                scores = proxy_scores(proxy.below("model"), groups)
            curves[case] = {
                "score": best_of_n(scores), "score_ties_free": best_of_n(scores, ties_are_free=True),
                "formula": best_of_n(by_formula), "gold": best_of_n(scores, worth_PN=by_formula),
            }  # fmt: skip
    return curves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    options = parser.parse_args()
    curves = curves_of(options.only)
    print(f"best-of-n: {json.dumps(curves)}", flush=True)
    result: dict[str, Any] = {}
    for case in options.only:
        if case == "over":
            result[case] = over(curves[case])
            continue
        found = []
        for seed in options.seeds:
            seen = evaluations(case, f"seed={seed}")
            found.append(against(curves[case], seen))
            print(f"{case}, seed {seed}: {json.dumps(seen)}\n    {json.dumps(found[-1])}", flush=True)
        names = set.intersection(*(set(each) for each in found))
        result[case] = {name: statistics.median(each[name] for each in found) for name in sorted(names)}
        result[case]["least_gain_at_same_length"] = min(each["gain_at_same_length"] for each in found)
    print(json.dumps(_rounded(result)))


def over(curves: dict[str, Curve]) -> dict[str, float]:
    """What became of the gold reward beyond its best."""
    seen = evaluations("over")
    draw(seen, curves["score"], curves["formula"], OUTPUT / "over_optimisation.svg")
    print(f"over: {json.dumps(seen)}", flush=True)
    best = max(seen, key=lambda entry: entry["gold"])
    return {
        "proxy_after_best_gold": seen[-1]["score"] - best["score"], "gold_after_best_gold": seen[-1]["gold"] - best["gold"],
        "kl_at_best_gold": best["kl_per_answer"], "kl": seen[-1]["kl_per_answer"],
    }  # fmt: skip


def _rounded(result: Any) -> Any:
    return {name: _rounded(value) for name, value in result.items()} if isinstance(result, dict) else round(result, 4)


if __name__ == "__main__":
    main()
