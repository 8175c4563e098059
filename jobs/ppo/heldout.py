"""Held-out prompts answered by the policy as it is, held against the answers of the model it started from.

judged answers to held-out prompts --watch--> means of every prompt --against those of the start--> numbers to watch
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from cluster.group import gather
from jobs.ppo.cast import Cast
from jobs.ppo.experience import Watched
from jobs.ppo.job import Judged, PpoJob
from jobs.ppo.progress import Progress

HELDOUT = "heldout/"
START = "heldout/start_"
"""Prefix of what the start model's answers to each prompt were, `heldout/start_score_7`, which later ones are compared with; in
the history, so that a resumed run compares with the same."""
COMPARED = ("score", "tokens", "gold")
LEAST_SPREAD = 1e-12
"""Tokens squared: lengths are means of whole numbers over a prompt's answers, so a variance below it is their rounding."""


def evaluate(job: PpoJob, cast: Cast, judged: Judged, progress: Progress) -> Progress:
    """The history with held-out numbers of the policy after `progress.step` steps.

    The same prompts and seeds every time, so that two evaluations differ by the policy alone.
    """
    judged = replace(judged, old=cast.turn(cast.policy, lambda rank: rank.logprobs.remote(judged.units)))
    watching = [(cast.policy, [cast.policy.ranks[0].watch.remote(judged)])]
    timeout_s = job.stage.resources.step_timeout_s
    found: Watched = gather(watching, timeout_s, "evaluation", needs=cast.calls_in(judged))[0]
    entry = {"step": float(progress.step), **{f"{HELDOUT}{name}": value for name, value in found.metrics.items()}}
    start = _start(progress)
    if start:
        entry |= {f"{HELDOUT}{name}": value for name, value in against_start(found.by_prompt, start).items()}
    else:
        entry |= {
            f"{START}{name}_{prompt}": value
            for name in COMPARED
            for prompt, value in found.by_prompt.get(name, {}).items()
        }
    return progress.with_entry(entry)


def for_people(entry: Mapping[str, float]) -> dict[str, float]:
    """The held-out numbers of a line of history without those of single prompts."""
    return {name: value for name, value in entry.items() if name.startswith(HELDOUT) and not name.startswith(START)}


def against_start(now: Mapping[str, Mapping[int, float]], start: Mapping[str, Mapping[int, float]]) -> dict[str, float]:
    """What changed since the start, paired by prompt.

    Returns:
        win_rate: share of prompts answered with a better score than at the start; equal ones count half.
        score_change_at_same_length: the change of the score where the length stays what it was: the intercept of the changes
            of the scores over those of the lengths in tokens (least squares).
        gold_change, gold_change_error: mean change of the gold score, and its standard error; where a gold reward has an opinion
            of both answers to two prompts at least, of those prompts.
    """

    def change(name: str) -> np.ndarray:
        both = sorted(now[name].keys() & start[name].keys())
        return np.array([now[name][prompt] - start[name][prompt] for prompt in both])

    score, tokens = change("score"), change("tokens")
    spread = float(np.var(tokens))
    slope = float(np.mean((score - score.mean()) * (tokens - tokens.mean()))) / spread if spread > LEAST_SPREAD else 0.0
    numbers = {
        "win_rate": float(np.mean((score > 0) + 0.5 * (score == 0))),
        "score_change_at_same_length": float(score.mean() - slope * tokens.mean()),
    }
    if "gold" in now and len(gold := change("gold")) > 1:
        numbers["gold_change"] = float(gold.mean())
        numbers["gold_change_error"] = float(gold.std(ddof=1) / len(gold) ** 0.5)
    return numbers


def _start(progress: Progress) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for entry in progress.history:
        for key, value in entry.items():
            if key.startswith(START):
                name, _, prompt = key.removeprefix(START).rpartition("_")
                found.setdefault(name, {})[int(prompt)] = value
    return found
