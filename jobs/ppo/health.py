"""What is looked at after every step: limits that end a run, and sentences for people.

metrics of a step --check--> nothing, a sentence, or PolicyUnhealthy
"""

import math
from collections.abc import Callable, Mapping, Sequence

from configs.errors import RunFailed
from configs.schema.ppo_stage import PpoStage

LEAST_SPREAD = 1e-6
"""Of the mean score: a deviation below it is the rounding of sums, not that answers differ."""

LEAST_LENGTH_CHANGE = 16
"""Tokens: an answer of 3 tokens that becomes one of 7 is no alarm."""


class PolicyUnhealthy(RunFailed):
    """A limit of `health` is passed; the newest checkpoint is from before."""


class HealthCheck:
    """Remembers only what was said already, and how long answers were at first."""

    def __init__(
        self, stage: PpoStage, say: Callable[[str], None], history: Sequence[Mapping[str, float]] = ()
    ) -> None:
        """Args:
        history: of the run so far, where it goes on.
        """
        self._stage, self._say = stage, say
        self._said: set[str] = set()
        self._lengths = [entry["answers/tokens"] for entry in history if "answers/tokens" in entry][:1]

    def check(self, metrics: Mapping[str, float]) -> None:
        """Raises PolicyUnhealthy."""
        health, step = self._stage.health, int(metrics["step"])
        _require_finite(metrics)
        kl, mismatch = metrics.get("kl/per_answer", 0.0), metrics.get("mismatch/kl", 0.0)
        if health.kl_ceiling is not None and kl > health.kl_ceiling:
            raise PolicyUnhealthy(
                f"step {step}: {kl:.1f} nats per answer from the reference, health.kl_ceiling is {health.kl_ceiling:g}. Raise "
                "algorithm.kl.coef, lower the learning rate, or set kl.adaptive."
            )
        if health.mismatch_ceiling is not None and mismatch > health.mismatch_ceiling:
            raise PolicyUnhealthy(
                f"step {step}: sampler and learner are {mismatch:.3g} nats a token apart, health.mismatch_ceiling is "
                f"{health.mismatch_ceiling:g}: they compute with other weights, or something else."
            )
        self._lengths.append(metrics["answers/tokens"])
        if metrics["answers/end_rate"] < health.least_end_rate:
            self._once(
                "ends",
                f"step {step}: only {metrics['answers/end_rate']:.0%} of the answers end by themselves; raise max_new_tokens or "
                "algorithm.rewards.missing_end_penalty",
            )
        first, now = self._lengths[0], self._lengths[-1]
        if max(first, now) > 2 * min(first, now) and abs(now - first) > LEAST_LENGTH_CHANGE:
            changed, paid = ("twice as long as", "length") if now > first else ("less than half as long as", "brevity")
            self._once(
                paid,
                f"step {step}: answers have become {changed} at the start ({first:.0f} -> {now:.0f} tokens): look at samples; "
                f"the reward may pay for {paid}",
            )
        if metrics.get("clip_fraction", 0.0) > 0.5:
            self._once("clip", f"step {step}: over half of the actions are clipped; lower optimizer.learning_rate")
        if metrics["reward/clip_fraction"] > 0.5:
            self._once(
                "rewards",
                f"step {step}: over half of the scores are larger than algorithm.rewards.clip lets count "
                f"({self._stage.algorithm.rewards.clip:g}), so good and better are the same; set rewards.normalise: running, "
                "or another clip",
            )
        if metrics["reward/score_deviation"] <= LEAST_SPREAD * abs(metrics["reward/score"]):
            self._once("flat", f"step {step}: all answers have the same score, so there is nothing to learn from")

    def check_heldout(self, history: Sequence[Mapping[str, float]]) -> None:
        """Says where the reward has risen while the gold reward has fallen from its best.

        Twice in a row and by more than three standard errors: the best of many evaluations was lucky too.

        Raises:
            PolicyUnhealthy: a number of the last one is none.
        """
        _require_finite(history[-1])
        seen = [entry for entry in history if "heldout/gold_change" in entry]
        if len(seen) < 2:
            return
        start = next(entry for entry in history if "heldout/score" in entry)
        *earlier, before, now = seen
        best = max([start, *earlier], key=lambda entry: entry.get("heldout/gold_change", 0.0))
        fall = best.get("heldout/gold_change", 0.0) - max(before["heldout/gold_change"], now["heldout/gold_change"])
        if fall > 3 * now["heldout/gold_change_error"] and now["heldout/score"] > best["heldout/score"]:
            rose = f"from {best['heldout/score']:.2f} to {now['heldout/score']:.2f}"
            self._once(
                "gold",
                f"step {int(now['step'])}: since step {int(best['step'])} the held-out reward rose {rose} while the gold reward "
                f"fell by {fall:.2f}: the policy exploits its reward. The better model is the earlier one: train fewer steps, "
                "raise algorithm.kl.coef, or train a better reward model",
            )

    def _once(self, topic: str, sentence: str) -> None:
        if topic not in self._said:
            self._said.add(topic)
            self._say(sentence)


def _require_finite(metrics: Mapping[str, float]) -> None:
    """NaN is above no ceiling, and no JSON: it must not come into a checkpoint's history."""
    broken = [name for name, value in metrics.items() if not math.isfinite(value)]
    if broken:
        raise PolicyUnhealthy(
            f"step {int(metrics['step'])}: {', '.join(broken)} {'is' if len(broken) == 1 else 'are'} not finite. See samples; "
            "lower optimizer.learning_rate, or set precision: fp32."
        )
