"""What the curves of a run mean, in words.

    history of a stage --readings--> {name of the reading: a sentence with its numbers and what to do}

Pure functions of the metrics; nothing here changes a run. The thresholds are ours: they are set so that the demo's runs,
which train well, give no reading.
"""

from collections.abc import Callable, Iterator, Sequence

from configs.schema.training import DpoStage, KtoStage, OrpoStage, RewardStage, TrainStage
from jobs.train.heldout import over_budget

History = Sequence[dict[str, float]]

FEWEST_STEPS = 10
"""Before so many steps a curve says nothing."""
WINDOW_SHARE = 0.2
"""The first and the last fifth of the steps are compared."""
WASTED_SHARE = 0.1
"""Of a run's time: what ranks wait for each other, for rows or for checkpoints beyond this is said."""
SURER_THAN_HELDOUT = 0.2
"""Training accuracy this far above the upper end of the held-out one's interval is learnt by heart."""
HELDOUT_RISE = 0.02
CLIPPED_FACTOR = 10.0
LOST_ENTROPY = 0.5
LENGTH_RATIO = 1.25
KTO_BALANCE = (1.0, 4 / 3)
"""desirable_weight x up over undesirable_weight x down (arXiv 2402.01306, equation 9)."""


def readings(stage: TrainStage, history: History) -> dict[str, str]:
    """Sentences by name, so that each is said once; in the order of importance.

    Args:
        history: entries of the loop (jobs/train/loop.py): steps with "loss", evaluations with "heldout/loss", or both.
    """
    steps = [entry for entry in history if "loss" in entry]
    found = dict(_of_evaluations(stage, history, steps))
    if len(steps) >= FEWEST_STEPS:
        for look in (_of_pairs, _of_thumbs, _of_lengths, _of_any, _of_waste):
            found |= dict(look(stage, steps))
    return found


def _of_evaluations(stage: TrainStage, history: History, steps: History) -> Iterator[tuple[str, str]]:
    if stage.heldout is None:
        return
    forgotten = over_budget(stage.heldout, list(history))
    if forgotten is not None:
        yield "forgetting", forgotten
    measured = [entry for entry in history if "heldout/loss" in entry]
    if len(measured) < 2:
        return
    best = min(measured, key=lambda entry: entry["heldout/loss"])
    rise = measured[-1]["heldout/loss"] / best["heldout/loss"] - 1 if best["heldout/loss"] > 0 else 0.0
    if rise > HELDOUT_RISE and stage.heldout.export == "last":
        yield (
            "overfitting",
            f"held-out loss was lowest after step {best['step']:.0f} and has risen by {rise:.1%} since: set "
            "heldout.export: best, fewer epochs, or a lower learning rate",
        )
    for name in ("accuracy", "rewards/accuracies"):
        high = measured[-1].get(f"heldout/{name}_high")
        if high is None or len(steps) < FEWEST_STEPS:
            continue
        trained = _last(steps, name)
        if trained > high + SURER_THAN_HELDOUT:
            yield (
                "by_heart",
                f"accuracy is {trained:.2f} on trained pairs and {measured[-1][f'heldout/{name}']:.2f} on held-out ones: "
                "they are learnt by heart; fewer epochs or more pairs",
            )
        low = measured[-1][f"heldout/{name}_low"]
        if low <= 0.5 <= high:
            yield (
                "chance",
                f"held-out accuracy {measured[-1][f'heldout/{name}']:.2f} ({low:.2f} to {high:.2f}) cannot be told from chance: "
                "more steps, more held-out rows (heldout.rows), or labels that people agree upon",
            )


def _of_pairs(stage: TrainStage, steps: History) -> Iterator[tuple[str, str]]:
    if isinstance(stage, DpoStage | KtoStage):
        fall = _last(steps, "logps/chosen") - _first(steps, "logps/chosen")
        if _margin(_last, steps) > _margin(_first, steps) and _clearly(steps, "logps/chosen", fall):
            instead = (
                "lower beta or the learning rate, or add the SFT term (loss.sft_weight: 1)"
                if isinstance(stage, DpoStage)
                else "lower beta or the learning rate"
            )
            yield (
                "chosen_falls",
                f"the margin grows, but the chosen answers become less likely too (log-prob {fall:+.1f}): {instead}",
            )
    if isinstance(stage, OrpoStage) and _last(steps, "sft_loss") > 1.05 * _first(steps, "sft_loss"):
        yield "sft_rises", "the odds-ratio term outweighs the SFT term, whose loss rises: lower loss.beta"
    if isinstance(stage, RewardStage) and abs(_last(steps, "rewards/mean")) > 5 + 3 * abs(_last(steps, "margin")):
        yield "drift", "scores drift away from 0 as a whole: set loss.centring: 0.01"


def _of_thumbs(stage: TrainStage, steps: History) -> Iterator[tuple[str, str]]:
    if not isinstance(stage, KtoStage):
        return
    shares = [entry["share_desirable"] for entry in steps if "share_desirable" in entry]
    up = sum(shares) / len(shares) if shares else 0.5
    if not 0 < up < 1:
        yield "one_thumb", f"all thumbs are {'up' if up else 'down'}: KTO needs both; for answers people like use SFT"
        return
    ratio = stage.loss.desirable_weight * up / (stage.loss.undesirable_weight * (1 - up))
    low, high = KTO_BALANCE
    if not 0.8 * low <= ratio <= 1.25 * high:
        key, value = (
            ("undesirable_weight", stage.loss.desirable_weight * up / (1 - up))
            if ratio > high
            else ("desirable_weight", stage.loss.undesirable_weight * (1 - up) / up)
        )
        yield (
            "imbalance",
            f"{up:.0%} of the thumbs are up, so one side weighs {max(ratio, 1 / ratio):.1f} times the "
            f"other: set loss.{key}: {value:.2g}",
        )


def _of_lengths(stage: TrainStage, steps: History) -> Iterator[tuple[str, str]]:
    del stage
    chosen, rejected = _mean(steps, "lengths/chosen"), _mean(steps, "lengths/rejected")
    if chosen and rejected and max(chosen / rejected, rejected / chosen) > LENGTH_RATIO:
        longer, factor = ("longer", chosen / rejected) if chosen > rejected else ("shorter", rejected / chosen)
        yield (
            "lengths",
            f"chosen answers are {factor:.2f} times {longer} than rejected ones: length alone may be learnt; for DPO see "
            "loss.kind: sigmoid_norm",
        )


def _of_any(stage: TrainStage, steps: History) -> Iterator[tuple[str, str]]:
    norms = [entry["grad_norm"] for entry in steps[-max(FEWEST_STEPS, len(steps) // 5) :]]
    typical = sorted(norms)[len(norms) // 2]
    if typical > CLIPPED_FACTOR * stage.optimizer.clip_norm:
        yield (
            "clipped",
            f"the gradient norm is {typical:.3g} and clipped to {stage.optimizer.clip_norm:g} in every step: the learning "
            "rate acts as a length of step only; lower it, or check the data",
        )
    if _first(steps, "entropy") > 0 and _last(steps, "entropy") < LOST_ENTROPY * _first(steps, "entropy"):
        yield (
            "entropy",
            f"entropy fell from {_first(steps, 'entropy'):.2f} to {_last(steps, 'entropy'):.2f} nats: answers become uniform; "
            "fewer steps or a lower learning rate",
        )


def _of_waste(stage: TrainStage, steps: History) -> Iterator[tuple[str, str]]:
    idle = _mean(steps, "idle_share")
    if idle is not None and idle > WASTED_SHARE:
        yield (
            "idle",
            f"ranks wait for each other {idle:.0%} of the time, because their rows are of unequal length: larger batches "
            "balance better, or use fewer ranks",
        )
    total_s = _sum(steps, "step_s") + _sum(steps, "save_wait_s")
    for_rows, for_saves = (_sum(steps, name) / total_s if total_s else 0.0 for name in ("data_wait_s", "save_wait_s"))
    if for_rows > WASTED_SHARE:
        yield (
            "data_wait",
            f"{for_rows:.0%} of the time rank 0 waits for rows: the store is slower than the training; use one that is nearer, "
            "or shards of fewer rows (`shards` of the shards stage)",
        )
    if for_saves > WASTED_SHARE:
        yield (
            "save_wait",
            f"{for_saves:.0%} of the time goes into checkpoints: raise checkpoints.every_steps (now "
            f"{stage.checkpoints.every_steps}), or use a faster store",
        )


def _window(steps: History) -> int:
    return max(1, round(len(steps) * WINDOW_SHARE))


def _first(steps: History, name: str) -> float:
    return _mean(steps[: _window(steps)], name) or 0.0


def _last(steps: History, name: str) -> float:
    return _mean(steps[-_window(steps) :], name) or 0.0


def _margin(window: Callable[[History, str], float], steps: History) -> float:
    return window(steps, "rewards/chosen") - window(steps, "rewards/rejected")


def _mean(steps: History, name: str) -> float | None:
    values = [entry[name] for entry in steps if name in entry]
    return sum(values) / len(values) if values else None


def _sum(steps: History, name: str) -> float:
    return sum(entry.get(name, 0.0) for entry in steps)


def _clearly(steps: History, name: str, fall: float) -> bool:
    """Whether a fall is more than the scatter between batches: beyond two standard errors of both windows."""
    values = [entry[name] for entry in steps if name in entry]
    window = _window(steps)
    spread = [_variance(part) / len(part) for part in (values[:window], values[-window:]) if part]
    return fall < -2 * sum(spread) ** 0.5 and fall < -1.0


def _variance(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)


class Readings:
    """Says each reading of a growing history once."""

    def __init__(self, stage: TrainStage, say: Callable[[str], None], history: History) -> None:
        """`history`: of the steps before this attempt."""
        self._stage, self._say = stage, say
        self._history = [dict(entry) for entry in history]
        self._said: set[str] = set()

    def add(self, metrics: dict[str, float]) -> None:
        """Metrics of a step, or of the evaluation after it."""
        if self._history and self._history[-1]["step"] == metrics["step"]:
            self._history[-1] |= metrics
        else:
            self._history.append(metrics)
        for name, sentence in readings(self._stage, self._history).items():
            if name not in self._said:
                self._said.add(name)
                self._say(sentence)
