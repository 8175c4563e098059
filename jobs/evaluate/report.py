"""An evaluation and the artifacts behind it -> report.html, one file; and the table a terminal shows.

evaluation.json ─┐
artifact records ├─► Jinja (autoescape: answers are untrusted text) ─► report.html
history.json     ┘
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from cluster.artifacts import Artifact
from cluster.storage import Store
from jobs.evaluate.charts import Node, bars, curve, lineage
from jobs.evaluate.page import percent, render

REPORT = "report.html"
TEMPLATE = "report.html.jinja"
HISTORY = "history.json"
"""What a training stage leaves beside its model: a list of {"step", "loss", "learning_rate", "grad_norm", "tokens"}."""

MEASURES = {"text": ("perplexity", "bits_per_byte"), "messages": ("loss", "bits_per_byte")}
"""What is shown of a set: answers are judged by their loss, running text by its perplexity."""
MEASURE_NAMES = {"perplexity": "perplexity", "bits_per_byte": "bits per byte", "loss": "loss, nats per token"}


CURVES = {
    "loss": "training loss", "heldout/loss": "held-out loss", "general/loss": "loss on general text",
    "heldout/accuracy": "held-out accuracy", "heldout/rewards/accuracies": "held-out accuracy",
    "rewards/margins": "margin of rewards", "kl": "KL to the reference",
    "reward/score": "reward of answers", "heldout/score": "held-out reward", "heldout/gold": "held-out gold reward",
    "heldout/win_rate": "held-out answers better than at the start", "kl/per_answer": "KL to the reference, nats an answer",
    "answers/tokens": "tokens of an answer",
}  # fmt: skip
"""Drawn of every training stage that has them, in this order."""


def write_report(evaluation: dict[str, Any], artifacts: Sequence[Artifact], output: Store) -> None:
    """Writes `report.html`: works offline, without scripts, in light and dark.

    Args:
        evaluation: what jobs.evaluate.evaluate returned or evaluation.json holds.
        artifacts: the evaluated models and all their ancestors; each record has name, config, parents, counts, licences and
            versions.
    """
    ordered = sorted(artifacts, key=lambda artifact: artifact.record["finished_at"])
    page = render(
        Path(__file__).parent,
        TEMPLATE,
        evaluation=evaluation,
        measures=MEASURES,
        measure_names=MEASURE_NAMES,
        headlines=_headlines(evaluation),
        scored={name: _scored(evaluation, name) for name in evaluation["sets"]},
        bars={name: _set_bars(evaluation, name) for name in evaluation["sets"]},
        curves=[drawn for artifact in ordered for drawn in _curves(artifact)],
        lineage=lineage([_node(artifact) for artifact in ordered]),
        artifacts=[_facts(artifact) for artifact in ordered],
        versions={name: value for artifact in ordered for name, value in artifact.record["versions"].items()},
        written=time.strftime("%d %B %Y, %H:%M UTC", time.gmtime()),
    )
    output.write(REPORT, page.encode())


def table(evaluation: dict[str, Any]) -> Table:
    """Models as columns, sets and measures as rows; in brackets the change against the column to the left."""
    drawn = Table(title="Held-out loss, lower is better", title_justify="left", caption_justify="left")
    drawn.caption = "in brackets: change against the column to the left"
    drawn.add_column("set")
    drawn.add_column("measure")
    for model in evaluation["models"]:
        drawn.add_column(model, justify="right")
    for set_name, chosen in evaluation["sets"].items():
        for place, measure in enumerate(MEASURES[chosen["rows"]]):
            cells = [_cell(evaluation, model, set_name, measure) for model in evaluation["models"]]
            drawn.add_row(set_name if place == 0 else "", MEASURE_NAMES[measure], *cells, end_section=place == 1)
    return drawn


def _cell(evaluation: dict[str, Any], model: str, set_name: str, measure: str) -> str:
    value = f"{evaluation['scores'][model][set_name][measure]:.3f}"
    if model not in evaluation["changes"]:
        return value
    return f"{value} ({percent(evaluation['changes'][model][set_name][measure])})"


def _headlines(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """First model against last, set by set."""
    first, last = evaluation["models"][0], evaluation["models"][-1]
    headlines = []
    for set_name, chosen in evaluation["sets"].items():
        measure = MEASURES[chosen["rows"]][0]
        before = evaluation["scores"][first][set_name][measure]
        after = evaluation["scores"][last][set_name][measure]
        headlines.append(
            {
                "set": set_name,
                "measure": MEASURE_NAMES[measure],
                "before": before,
                "after": after,
                "change": after / before - 1,
            }
        )
    return headlines


def _scored(evaluation: dict[str, Any], set_name: str) -> str:
    """How much was scored: tokens only where all models count alike, which those with one tokenizer do."""
    scores = [evaluation["scores"][model][set_name] for model in evaluation["models"]]
    tokens = {score["tokens"] for score in scores}
    documents = f"{scores[0]['documents']:,} documents"
    return f"{documents}, {tokens.pop():,} tokens" if len(tokens) == 1 else documents


def _set_bars(evaluation: dict[str, Any], set_name: str) -> str:
    measure = MEASURES[evaluation["sets"][set_name]["rows"]][0]
    values = {model: evaluation["scores"][model][set_name][measure] for model in evaluation["models"]}
    return bars(values, f"{MEASURE_NAMES[measure]} on {set_name}")


def _curves(artifact: Artifact) -> Iterator[dict[str, Any]]:
    if not artifact.content.exists(HISTORY):
        return
    history = artifact.content.read_json(HISTORY)
    for name, title in CURVES.items():
        measured = [entry for entry in history if name in entry]
        if not measured:
            continue
        values = [entry[name] for entry in measured]
        yield {
            "name": artifact.name,
            "title": title,
            "points": len(measured),
            "first": values[0],
            "last": values[-1],
            "svg": curve([entry["step"] for entry in measured], values, f"{title} of {artifact.name}"),
        }


def _node(artifact: Artifact) -> Node:
    parents = tuple(artifact.record["parents"].values())
    return Node(f"{artifact.kind}-{artifact.key}", artifact.name, f"{artifact.kind} · {artifact.key[:8]}", parents)


def _facts(artifact: Artifact) -> dict[str, Any]:
    record = artifact.record
    return {
        "name": artifact.name,
        "kind": artifact.kind,
        "key": artifact.key,
        "counts": dict(_counted(record["counts"])),
        "licences": record["licences"],
        "settings": dict(flattened(record["config"])),
    }


def _counted(counts: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Our own words spaced out, names of licences and sources as they stand: ("documents by licence, CC-BY-SA-3.0", 12)."""
    for name, value in counts.items():
        words = name.replace("_", " ")
        if not isinstance(value, Mapping):
            yield words, value
            continue
        for key, count in flattened(value):
            yield f"{words}, {key.replace('_', ' ') if name == 'quarantined' else key}", count


def flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as dotted keys: {"a": {"b": 1}} -> ("a.b", 1)."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
