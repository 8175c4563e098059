"""Answers of a base model, their scores, and what choosing the best of n of them would reach: beside it PPO is measured.

prompts --vLLM, N answers each--> rollouts --a formula, a reward model--> scores_PN --best_of_n--> (KL, score) for n = 1 .. N
"""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from cluster.storage import Store  # noqa: E402 - the checkout is not on a script's path
from jobs.ppo.prompts import requests_for  # noqa: E402
from jobs.records import PromptRow, Rollout, Sampling  # noqa: E402

CALL_S = 1200.0

Curve = list[tuple[float, float]]
"""(KL, score), by rising KL."""


@dataclass(frozen=True)
class Questions:
    """Instructions without a text to them, as prompts of one of the runs.

    Example:
        Questions("short_prompts", longest=65, new_tokens=24, system="Answer in one short sentence.")
    """

    name: str
    """Of the configuration, its stage of shards and the file."""
    longest: int
    """Characters of an instruction."""
    new_tokens: int
    """As in the runs that ask them."""
    system: str = ""
    before: str = ""
    """Put before every instruction."""

    def write(self, directory: Path) -> None:
        rows = json.loads((ROOT / "artifacts/assets/instructions/alpaca_en_demo.json").read_text())
        asked = [row for row in rows if not row["input"] and len(row["instruction"]) <= self.longest]
        system = {"system": self.system} if self.system else {}
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{self.name}.json").write_text(
            json.dumps(
                [
                    {**system, "instruction": f"{self.before}{row['instruction']}", "output": row["output"]}
                    for row in asked
                ]
            )
        )


def sample(model: Store, prompts: Sequence[PromptRow], answers: int, new_tokens: int) -> list[list[Rollout]]:
    """Answers of the base model by prompt, in the order of the prompts."""
    from jobs.ppo.vllm_engine import EngineSpec
    from tests.ppo.engine_process import engine_process

    requests = requests_for(prompts, answers, "ppo_learning", answers)
    sampling = Sampling(1.0, new_tokens, _ends(model))
    with engine_process(EngineSpec(model, "bfloat16", 256, 1.0, max_num_seqs=64, threads=2)) as engine:
        groups = engine.run(_generated, requests, sampling, timeout_s=CALL_S)
    return sorted(groups, key=lambda group: group[0].prompt_id)


def _generated(engine: Any, requests: Any, sampling: Sampling) -> list[list[Rollout]]:
    return list(engine.generate(requests, sampling))


def _ends(model: Store) -> tuple[int, ...]:
    from jobs.corpus.template import end_token_ids

    return tuple(sorted(end_token_ids(model, tokenizer_of(model))))


def tokenizer_of(model: Store) -> Any:
    from jobs.corpus.segments import load_tokenizer, read_tokenizer_files

    return load_tokenizer(read_tokenizer_files(model, False))


def formula_scores(formula: Any, model: Store, groups: Sequence[Sequence[Rollout]]) -> list[list[float]]:
    """Of every answer by prompt."""
    tokenizer = tokenizer_of(model)

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
    end = written_end(tokenizer_of(proxy), _ends(proxy))
    with lone_rank():
        learner = Learner(LearnerSpec(proxy, "bf16", None, head="scores"), build_mesh(1))
        learner.load()
        found = scores_of_answers(learner, [list(group) for group in groups], len(groups[0]), end)
    return [[found[group[0].prompt_id * len(group) + sample] for sample in range(len(group))] for group in groups]


def best_of_n(
    scores_PN: Sequence[Sequence[float]],
    ties_are_free: bool = False,
    worth_PN: Sequence[Sequence[float]] | None = None,
) -> Curve:
    """What the answer of the best score among n of the N to a prompt comes to, mean over prompts, for n = 1 .. N.

    Its expectation is without bias (order statistics). KL: log n - (n - 1) / n nats (Stiennon et al. 2020, appendix G.3), the
    customary formula, which holds where no two answers score alike.

    Args:
        ties_are_free: less what ties save, estimated from the N answers (of 16 some 0.04 nats too little for a middling n, up to
            0.08 too much at 16). Which of equal answers is taken costs nothing, so of scores that tie the formula says too much
            (Beirami et al. 2024, arXiv 2401.01879), and a policy held against it looks better than it is.
        worth_PN: what else of the chosen answer is wanted instead of its score, such as the gold reward of the proxy's choice.
    """
    scores = np.array(scores_PN)
    ordered = np.take_along_axis(np.array(scores if worth_PN is None else worth_PN), np.argsort(scores, axis=1), axis=1)
    total = ordered.shape[1]
    curve = []
    for n in range(1, total + 1):
        chance = [
            math.comb(place, n - 1) / math.comb(total, n) for place in range(total)
        ]  # that place is the best of n
        kl = math.log(n) - (n - 1) / n
        if ties_are_free:
            kl -= _kl_of_best(np.arange(total), n) - float(np.mean([_kl_of_best(scores_N, n) for scores_N in scores]))
        curve.append((kl, float((ordered * chance).sum(axis=1).mean())))
    return curve


def _kl_of_best(scores_N: np.ndarray, n: int) -> float:
    """Nats between the distribution of the best of n draws from these scores and that of one draw."""
    _, counts = np.unique(scores_N, return_counts=True)
    share = counts / counts.sum()
    chosen = np.diff(np.cumsum(share) ** n, prepend=0.0)
    return float(np.sum(chosen * np.log(np.maximum(chosen, np.finfo(float).tiny) / share)))
