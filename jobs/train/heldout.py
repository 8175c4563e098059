"""Held-out loss and metrics while a stage trains, and what follows from them.

heldout rows --the objective's own loss, without gradient--> heldout/loss, heldout/rewards/accuracies +- ...
general rows --next-token loss--> general/loss against its value at the start: the forgetting budget
"""

import math
from dataclasses import dataclass

import torch
from typing import Literal
import torch.distributed as dist

from cluster.storage import Store
from configs.schema.training import HeldoutEvaluation, TrainStage
from jobs.train.learner import Learner
from jobs.train.objectives import learns_best_prompt, objective_of
from jobs.train.objectives.lm import LanguageModel
from jobs.train.objectives.objective import Mean, Objective
from jobs.train.reader import RowReader
from jobs.train.reference import compute_references

WILSON_Z = 1.96
"""95 % interval."""


@dataclass(frozen=True)
class HeldoutSet:
    """Rows that are scored again and again, and the objective they are scored by."""

    name: str
    """Prefix of its metrics: heldout or general."""
    reader: RowReader
    objective: Objective


def open_sets(stage: TrainStage, shards: Store, general: Store | None) -> list[HeldoutSet]:
    """The sets of a stage; none where it has no `heldout`."""
    evaluation = stage.heldout
    if evaluation is None:
        return []
    objective = objective_of(stage)
    sets = [HeldoutSet("heldout", _reader(stage, evaluation, shards, learns_best_prompt(stage)), objective)]
    if general is not None:
        sets.append(HeldoutSet("general", _reader(stage, evaluation, general, False), LanguageModel()))
    return sets


def add_references(sets: list[HeldoutSet], learner: Learner, output: Store) -> None:
    """What DPO and KTO compare with, by the reference's own weights."""
    for chosen in sets:
        if chosen.objective.needs_reference:
            chosen.reader.references = compute_references(learner, chosen.reader, 1, output.below(chosen.name))


def measure(learner: Learner, sets: list[HeldoutSet]) -> dict[str, float]:
    """Loss, perplexity of next-token losses, metrics and the interval of an accuracy, by name. All ranks call it together."""
    metrics: dict[str, float] = {}
    for chosen in sets:
        loss, means = _loss_and_metrics(learner, chosen)
        metrics[f"{chosen.name}/loss"] = loss
        if isinstance(chosen.objective, LanguageModel):
            metrics[f"{chosen.name}/perplexity"] = math.exp(min(loss, 50.0))
        for name, (total, count) in means.items():
            if count:
                metrics[f"{chosen.name}/{name}"] = total / count
            if count and name in ("rewards/accuracies", "accuracy"):
                low, high = wilson_interval(total / count, count)
                metrics |= {f"{chosen.name}/{name}_low": low, f"{chosen.name}/{name}_high": high}
    return metrics


def wilson_interval(share: float, count: float) -> tuple[float, float]:
    """95 % interval of a share of `count` independent examples (Wilson 1927): stays inside 0 and 1, also for few."""
    square = WILSON_Z**2 / count
    middle = (share + square / 2) / (1 + square)
    half = WILSON_Z / (1 + square) * math.sqrt(share * (1 - share) / count + square / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def best_step(history: list[dict[str, float]]) -> int | None:
    """The step with the lowest held-out loss so far; the earliest of equals."""
    measured = [(entry["heldout/loss"], int(entry["step"])) for entry in history if "heldout/loss" in entry]
    return min(measured)[1] if measured else None


def reason_to_stop(evaluation: HeldoutEvaluation, history: list[dict[str, float]]) -> str | None:
    """Why a run should end after its last evaluation; None to go on."""
    measured = [entry for entry in history if "heldout/loss" in entry]
    if evaluation.patience is not None and measured:
        losses = [entry["heldout/loss"] for entry in measured]
        since_best = len(losses) - 1 - losses.index(min(losses))
        if since_best >= evaluation.patience:
            return f"held-out loss has not fallen for {since_best} evaluations (best {min(losses):.4f})"
def changes(history: list[dict[str, float]], export: Literal["last", "best"]) -> dict[str, float]:
    """Metrics before training and of the exported weights: {heldout/loss_before: ..., heldout/loss: ...}."""
    measured = [entry for entry in history if "heldout/loss" in entry]
    if not measured:
        return {}
    exported = measured[-1]
    if export == "best":
        exported = next(entry for entry in measured if entry["step"] == best_step(history))
    found = {"exported_step": exported["step"]} if export == "best" else {}
    for name in measured[0]:
        if name.startswith(("heldout/", "general/")):
            found |= {f"{name}_before": measured[0][name], name: exported[name]}
    return found


    if evaluation.over_budget == "stop":
        return over_budget(evaluation, history)
    return None


def over_budget(evaluation: HeldoutEvaluation, history: list[dict[str, float]]) -> str | None:
    """A sentence where more is forgotten than `max_general_increase` allows."""
    measured = [entry["general/perplexity"] for entry in history if "general/perplexity" in entry]
    if evaluation.max_general_increase is None or not measured:
        return None
    increase = measured[-1] / measured[0] - 1
    if increase <= evaluation.max_general_increase:
        return None
    return (
        f"general perplexity rose by {increase:.1%}, the forgetting budget is {evaluation.max_general_increase:.1%}: lower the "
        "learning rate, mix general text into the shards, or train adapters (`lora`)"
    )


def _reader(stage: TrainStage, evaluation: HeldoutEvaluation, shards: Store, best_prompt: bool) -> RowReader:
    return RowReader(
        shards, "heldout", 0, evaluation.rows, dist.get_rank(), dist.get_world_size(), stage.micro_batch_tokens,
        best_prompt, most_rows=evaluation.rows,
    )  # fmt: skip


def _loss_and_metrics(learner: Learner, chosen: HeldoutSet) -> tuple[float, dict[str, tuple[float, float]]]:
    batch = chosen.reader.read(0)
    loss_function = chosen.objective.loss_of_step(learner, batch)
    loss = torch.zeros((), dtype=torch.float64)
    totals: dict[str, Mean] = {}
    for part in batch.micro_batches:
        with torch.no_grad():
            contribution = loss_function(learner.forward(part).cpu(), part)
        loss += contribution.loss.double()
        for name, mean in contribution.metrics.items():
            before = totals.get(name)
            totals[name] = mean if before is None else Mean(before.total + mean.total, before.count + mean.count)
    parts = [loss, *(number for mean in totals.values() for number in (mean.total, mean.count))]
    reduced = learner.sums_over_ranks(torch.stack([part.cpu() for part in parts]))
    pairs = zip(totals, reduced[1::2], reduced[2::2], strict=True)
    return reduced[0], {name: (total, count) for name, total, count in pairs}
