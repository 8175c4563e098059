"""Whether every objective learns: its held-out numbers before and after, paired over the same held-out examples.

    python tests/benchmarks/learning.py

    configs/{reward,dpo,kto,orpo}.yaml, learning.yaml (with sft.yaml in it) --acclimate run--> models, as they are served
    base and models --one held-out example at a time--> loss, log-probabilities, scores --bootstrap--> 95 % intervals

Finished stages are reused. The pairs and thumbs of the example configs are constructed (jobs/demo_preferences.py). Prints one
JSON object as its last line; every number is [value, low, high]. Wanted: every `change` and `over_*` of the constructed data
excludes 0.

    sft      loss        nats a token of held-out answers
    reward   accuracy    share of pairs whose chosen answer scores higher; beside it that of two baselines which look at length
             or at the likelihood under the base model alone, with the rule of theirs that does best on these very pairs
    dpo      loss        log 2 before, because the model is its own reference
             accuracy    share of pairs where the log-ratio to the reference prefers the chosen answer: 1/2 is chance
    kto      loss        1/2 before, for the same reason
    orpo     loss, and   accuracy: share of pairs whose chosen answer is likelier a token
    demo_reward  as reward, from the 300 pairs that come with LLaMA-Factory, half of them held out
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

CHECKOUT = Path(__file__).parents[2]
sys.path.insert(0, str(CHECKOUT))

from cluster.artifacts import Artifact, find_artifact, find_named  # noqa: E402 - the checkout is not on a script's path
from cluster.preload import preload_environment, preloaded_tcmalloc  # noqa: E402
from cluster.storage import Store, open_store  # noqa: E402
from configs.loader import load_run  # noqa: E402
from configs.schema.run import Run  # noqa: E402
from configs.schema.training import TrainStage  # noqa: E402
from jobs.corpus.collect import read_corpus_split  # noqa: E402
from jobs.corpus.judgements import load  # noqa: E402
from jobs.train.reader import References  # noqa: E402
from jobs.train.reference import compute_references  # noqa: E402
from tests.benchmarks.intervals import mean_with_interval  # noqa: E402
from tests.benchmarks.row_scores import Numbers, RowScores, documents_of, one_row_at_a_time, score_rows, scorer  # noqa: E402

CONFIGS = (
    "configs/reward.yaml",
    "configs/dpo.yaml",
    "configs/kto.yaml",
    "configs/orpo.yaml",
    "tests/benchmarks/learning.yaml",
)
ROWS = 128
"""Held-out examples that are looked at: an accuracy near 90 % is then known to 5 %."""


@dataclass(frozen=True)
class Trained:
    """A finished stage and what it came from."""

    stage: TrainStage
    seed: int
    base: Store
    model: Store
    shards: Artifact

    def scores(self, model: Store, references: References | None = None) -> RowScores:
        """Of one of its models, on its held-out rows."""
        with scorer(self.stage, model, self.seed) as learner:
            return score_rows(learner, self.stage, one_row_at_a_time(self.stage, self.shards.content, ROWS, references))


def main() -> None:
    for config in CONFIGS:
        subprocess.run([sys.executable, "-m", "jobs.cli", "run", config, "--yes"], cwd=CHECKOUT, check=True)
    store = open_store(str(CHECKOUT / "artifacts"))
    runs = [load_run(str(CHECKOUT / config)).run for config in CONFIGS]
    reward, dpo, kto, orpo = (find(store, run, run.name.removesuffix("_demo")) for run in runs[:4])
    pairs = Pairs.read(reward.shards)
    likely = orpo.scores(orpo.base)  # of the base model: answers' log-probabilities are in it, whatever the objective
    demo = find(store, runs[4], "demo_reward")
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "sft": lambda: of_sft(store),
        "reward": lambda: of_reward(reward, pairs, likely),
        "dpo": lambda: of_dpo(dpo, pairs, likely),
        "kto": lambda: of_kto(kto),
        "orpo": lambda: of_orpo(orpo, pairs, likely),
        "demo_reward": lambda: of_reward(
            demo, Pairs.read(demo.shards), replace(orpo, shards=demo.shards).scores(orpo.base)
        ),
    }
    results = {}
    for name, measure in measures.items():
        results[name] = measure()
        print(name, json.dumps(results[name]), file=sys.stderr, flush=True)  # each takes minutes
    print(json.dumps(results))


def find(store: Store, run: Run, name: str) -> Trained:
    """The finished stage of that name in a run file."""
    stage = run.stages[name]
    assert isinstance(stage, TrainStage), name
    trained = find_named(store, name, (stage.stage,))
    base, shards = (parent(store, trained, key) for key in ("model", "shards"))
    return Trained(stage, run.seed, base.content.below("model"), trained.content.below("model"), shards)


def parent(store: Store, artifact: Artifact, key: str) -> Artifact:
    kind, _, parent_key = artifact.record["parents"][key].rpartition("-")
    found = find_artifact(store, kind, parent_key)
    assert found is not None, f"{artifact.name} has no {key} any more"
    return found


@dataclass(frozen=True)
class Pairs:
    """What is known of the held-out pairs beside their tokens."""

    groups: list[frozenset[str]]
    """Two papers that lend each other conclusions are one example, not two."""
    copied: list[bool]
    """Whether the rejected answer is a passage of the prompt; else it is another paper's conclusion."""

    @staticmethod
    def read(shards: Artifact) -> "Pairs":
        corpus = parent(shards.store, shards, "corpus")
        heldout = read_corpus_split(corpus.content, "heldout").select(["document_id", "judgement"]).to_pylist()
        judgements = {row["document_id"]: load(row["judgement"]) for row in heldout}
        chosen = [judgements[document] for document in documents_of(shards.content, ROWS)]
        texts = [[answer[-1]["content"] for answer in judgement.answers] for judgement in chosen]
        return Pairs(
            [frozenset(answers) for answers in texts],
            [answers[1] in judgement.prompt[0]["content"] for answers, judgement in zip(texts, chosen, strict=True)],
        )

    def mean(self, values: Numbers) -> list[float]:
        return mean_with_interval(values, self.groups)


def of_sft(store: Store) -> dict[str, Any]:
    documents = find_named(store, "answers", ("evaluate",)).content.read_json("evaluation.json")["documents"]
    before, after = (
        [(row["nats"], row["tokens"]) for row in documents[name]["instructions"]] for name in ("base", "sft")
    )
    tokens = np.array([count for _, count in before], dtype=float)
    # A token weighs the same in every document: the mean over documents of nats over the mean number of tokens.
    losses = [np.array([nats for nats, _ in rows]) / tokens.mean() for rows in (before, after)]
    return {"examples": len(tokens), "loss": before_and_after(losses[0], losses[1], mean_with_interval)}


def of_reward(trained: Trained, pairs: Pairs, likely: RowScores) -> dict[str, Any]:
    before, after = (trained.scores(model).metrics["accuracy"] for model in (trained.base, trained.model))
    length, likelihood = best_rules(likely)
    result: dict[str, Any] = {
        "examples": len(after),
        "accuracy": before_and_after(before, after, pairs.mean),
        "length_only": pairs.mean(length),
        "likelihood_only": pairs.mean(likelihood),
        "over_length": pairs.mean(after - length),
        "over_likelihood": pairs.mean(after - likelihood),
    }
    if any(pairs.copied):
        for kind, copied in (("copied", True), ("other_paper", False)):
            here = np.where(np.array(pairs.copied) == copied, 1.0, np.nan)
            result[f"accuracy_{kind}"] = pairs.mean(here * after)
            result[f"likelihood_only_{kind}"] = pairs.mean(here * likelihood)
    return result


def of_dpo(trained: Trained, pairs: Pairs, likely: RowScores) -> dict[str, Any]:
    logprobs = [
        likely.metrics[f"logps_per_token/{side}"] * likely.metrics[f"lengths/{side}"] for side in ("chosen", "rejected")
    ]
    references = {row: list(values) for row, values in enumerate(zip(*logprobs, strict=True))}
    after = trained.scores(trained.model, references)
    return {
        "examples": len(after.loss),
        "loss": before_and_after(np.full(len(after.loss), math.log(2)), after.loss, pairs.mean),
        "accuracy": pairs.mean(after.metrics["rewards/accuracies"]),
        "likelier": before_and_after(
            prefers(*logprobs), prefers(after.metrics["logps/chosen"], after.metrics["logps/rejected"]), pairs.mean
        ),
    }


def of_kto(trained: Trained) -> dict[str, Any]:
    reader = one_row_at_a_time(trained.stage, trained.shards.content, ROWS)
    with scorer(trained.stage, trained.base, trained.seed) as learner, tempfile.TemporaryDirectory() as scratch:
        references = compute_references(learner, reader, 1, Store(scratch))
    reader.close()
    after = trained.scores(trained.model, references)
    up, down = after.metrics["rewards/chosen"], after.metrics["rewards/rejected"]
    return {
        "examples": len(after.loss),
        "loss": before_and_after(np.full(len(after.loss), 0.5), after.loss, mean_with_interval),
        "reward_up": mean_with_interval(up),
        "reward_down": mean_with_interval(down),
        "separated": round(float(np.mean(up[~np.isnan(up)][:, None] > down[~np.isnan(down)])), 4),
    }


def of_orpo(trained: Trained, pairs: Pairs, likely: RowScores) -> dict[str, Any]:
    after = trained.scores(trained.model)
    return {
        "examples": len(after.loss),
        "loss": before_and_after(likely.loss, after.loss, pairs.mean),
        "accuracy": before_and_after(
            likely.metrics["rewards/accuracies"], after.metrics["rewards/accuracies"], pairs.mean
        ),
    }


def before_and_after(before: Numbers, after: Numbers, mean: Callable[[Numbers], list[float]]) -> dict[str, list[float]]:
    return {"before": mean(before), "after": mean(after), "change": mean(after - before)}


def best_rules(likely: RowScores) -> tuple[Numbers, Numbers]:
    """Right or wrong on each pair, by the best rule of those that look at length and of those that look at likelihood.

    Longer or shorter; more or less likely, as a whole or a token. Choosing the rule on the pairs it is measured on favours the
    baselines.
    """
    chosen, rejected = ({name: likely.metrics[f"{name}/{side}"] for name in ("logps_per_token", "lengths")} for side in ("chosen", "rejected"))  # fmt: skip
    longer = prefers(chosen["lengths"], rejected["lengths"])
    per_token = prefers(chosen["logps_per_token"], rejected["logps_per_token"])
    whole = prefers(*(side["logps_per_token"] * side["lengths"] for side in (chosen, rejected)))
    return max((longer, 1 - longer), key=np.mean), max((per_token, 1 - per_token, whole, 1 - whole), key=np.mean)


def prefers(chosen: Numbers, rejected: Numbers) -> Numbers:
    """1 where the chosen answer has more, 1/2 where both have the same."""
    return np.where(chosen == rejected, 0.5, (chosen > rejected).astype(float))


if __name__ == "__main__":
    if preload_environment() and not preloaded_tcmalloc():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | preload_environment())
    main()
