"""Held-out prompts answered by the policy as it is, held against the answers of the model it started from.

judged answers to held-out prompts --watch--> scores of every answer --> reward, KL, length, end rate, win rate
"""

from dataclasses import replace

from cluster.group import gather
from jobs.ppo.cast import Cast
from jobs.ppo.experience import Watched
from jobs.ppo.job import Judged, PpoJob
from jobs.ppo.progress import Progress

START = "heldout/start_score_"
"""Prefix of the start model's mean score for each prompt, which later ones are compared with; in the history, so that a
resumed run compares with the same."""


def evaluate(job: PpoJob, cast: Cast, judged: Judged, progress: Progress) -> Progress:
    """The history with held-out numbers of the policy after `progress.step` steps.

    The same prompts and seeds every time, so that two evaluations differ by the policy alone.
    """
    old = [
        handle
        for unit in judged.units
        for handle in cast.policy.all(lambda rank, unit=unit: rank.logprobs.remote(judged.asked, [unit]))
    ]
    judged = replace(judged, old=old)
    watching = [(cast.policy, [cast.policy.ranks[0].watch.remote(judged)])]
    timeout_s = job.stage.resources.step_timeout_s
    found: Watched = gather(watching, timeout_s, "evaluation", needs=cast.calls_in(judged))[0]
    scores = found.scores_by_prompt
    start = {
        int(name.removeprefix(START)): value
        for entry in progress.history
        for name, value in entry.items()
        if name.startswith(START)
    }
    entry = {"step": float(progress.step), **{f"heldout/{name}": value for name, value in found.metrics.items()}}
    if not start:
        entry |= {f"{START}{prompt}": score for prompt, score in scores.items()}
    else:
        wins = [(score > start[prompt]) + 0.5 * (score == start[prompt]) for prompt, score in scores.items()]
        entry["heldout/win_rate"] = sum(wins) / len(wins)
    return progress.with_entry(entry)
