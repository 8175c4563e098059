"""Held-out loss and metrics while a stage trains, and what follows from them.

heldout rows --the objective's own loss, without gradient--> heldout/loss, heldout/rewards/accuracies +- ...
             --the same of each source, where there are several--> heldout/SOURCE/loss
general rows --next-token loss--> general/loss against its value at the start: the forgetting budget
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist

from cluster.storage import Store
from configs.schema.training import HeldoutEvaluation, TrainStage
from jobs.train.learner import Learner
from jobs.train.objectives import learns_best_prompt, objective_of
from jobs.train.objectives.lm import LanguageModel
from jobs.train.objectives.objective import Mean, Objective, with_margin
from jobs.train.reader import RowReader, StepBatch, read_index
from jobs.train.reference import compute_references

ALL = "all"
"""Where rows are not told apart by source."""

WILSON_Z = 1.96
"""95 % interval."""


@dataclass(frozen=True)
class HeldoutSet:
    """Rows that are scored again and again, and the objective they are scored by."""

    name: str
    """Prefix of its metrics: heldout or general."""
    readers: dict[str, RowReader]
    """By source; one reader where all rows are from one, or where the sources of a row are mixed."""
    objective: Objective


def open_sets(stage: TrainStage, shards: Store, general: Store | None) -> list[HeldoutSet]:
    """The sets of a stage; none where it has no `heldout`."""
    evaluation = stage.heldout
    if evaluation is None:
        return []
    objective = objective_of(stage)
    sets = [HeldoutSet("heldout", _readers(stage, evaluation, shards, learns_best_prompt(stage)), objective)]
    if general is not None:
        sets.append(HeldoutSet("general", _readers(stage, evaluation, general, False), LanguageModel()))
    return sets


def add_references(sets: list[HeldoutSet], learner: Learner, output: Store) -> None:
    """What DPO and KTO compare with, by the reference's own weights."""
    for chosen in sets:
        if chosen.objective.needs_reference:
            for source, reader in chosen.readers.items():
                reader.references = compute_references(learner, reader, 1, output.below(chosen.name, source))


def measure(learner: Learner, sets: list[HeldoutSet]) -> dict[str, float]:
    """Loss, perplexity of next-token losses, metrics and the interval of an accuracy, by name. All ranks call it together."""
    metrics: dict[str, float] = {}
    for chosen in sets:
        scored = _score(learner, chosen)
        metrics[f"{chosen.name}/loss"] = scored.loss
        metrics |= {f"{chosen.name}/{source}/loss": loss for source, loss in scored.by_source.items()}
        if isinstance(chosen.objective, LanguageModel):
            metrics[f"{chosen.name}/perplexity"] = math.exp(min(scored.loss, 50.0))
        watched = with_margin({name: total / count for name, (total, count) in scored.means.items() if count})
        for name, value in watched.items():
            metrics[f"{chosen.name}/{name}"] = value
            if name in ("rewards/accuracies", "accuracy"):
                low, high = wilson_interval(value, scored.means[name][1])
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


def reason_to_stop(evaluation: HeldoutEvaluation, history: list[dict[str, float]]) -> str | None:
    """Why a run should end after its last evaluation; None to go on."""
    measured = [entry for entry in history if "heldout/loss" in entry]
    if evaluation.patience is not None and measured:
        losses = [entry["heldout/loss"] for entry in measured]
        since_best = len(losses) - 1 - losses.index(min(losses))
        if since_best >= evaluation.patience:
            return f"held-out loss has not fallen for {since_best} evaluations (best {min(losses):.4f})"
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
        "learning rate, replay general text (a `mix` stage), or train adapters (`lora`)"
    )


def _readers(
    stage: TrainStage, evaluation: HeldoutEvaluation, shards: Store, best_prompt: bool
) -> dict[str, RowReader]:
    sources = read_index(shards, "heldout").first(evaluation.rows).sources()

    def reader(source: str | None) -> RowReader:
        return RowReader(
            shards, "heldout", 0, evaluation.rows, dist.get_rank(), dist.get_world_size(), stage.micro_batch_tokens,
            best_prompt, most_rows=evaluation.rows, source=source,
        )  # fmt: skip

    return {source: reader(source) for source in sources} if len(sources) > 1 else {ALL: reader(None)}


@dataclass(frozen=True)
class _Measured:
    """Over all rows and ranks."""

    loss: float
    by_source: dict[str, float]
    means: dict[str, tuple[float, float]]
    """(total, count)"""


def _score(learner: Learner, chosen: HeldoutSet) -> _Measured:
    """One forward pass for each row; its values give the loss of all and that of the row's source."""
    batches = {source: reader.read(0) for source, reader in chosen.readers.items()}
    of_all = chosen.objective.loss_of_step(learner, _together(list(batches.values())))
    losses = torch.zeros(1 + len(batches), dtype=torch.float64)
    totals: dict[str, Mean] = {}
    for place, batch in enumerate(batches.values(), start=1):
        of_source = chosen.objective.loss_of_step(learner, batch) if len(batches) > 1 else of_all
        for part in batch.micro_batches:
            with torch.no_grad():
                values = learner.forward(part).cpu()
                contribution = of_all(values, part)
                losses[0] += contribution.loss.double()
                losses[place] += of_source(values, part).loss.double()
            for name, mean in contribution.metrics.items():
                before = totals.get(name)
                totals[name] = mean if before is None else Mean(before.total + mean.total, before.count + mean.count)
    parts = [*losses, *(number for mean in totals.values() for number in (mean.total, mean.count))]
    reduced = learner.sums_over_ranks(torch.stack([part.cpu() for part in parts]))
    counted = reduced[len(losses) :]
    pairs = zip(totals, counted[::2], counted[1::2], strict=True)
    return _Measured(
        reduced[0],
        dict(zip(batches, reduced[1 : len(losses)], strict=True)) if len(batches) > 1 else {},
        {name: (total, count) for name, total, count in pairs},
    )


def _together(batches: Sequence[StepBatch]) -> StepBatch:
    """The batches of several sources as one."""
    return StepBatch(
        tuple(part for batch in batches for part in batch.micro_batches),
        tuple(part for batch in batches for part in batch.mismatched),
        sum(batch.weight for batch in batches), sum(batch.examples for batch in batches),
        sum(batch.tokens for batch in batches), 0.0, tuple(rows for batch in batches for rows in batch.rows),
    )  # fmt: skip
