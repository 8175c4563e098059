"""Stages that look at models: `evaluate` and `report`."""

from typing import Literal

from pydantic import Field

from configs.schema.training import Resources
from configs.schema.tree import Node, PositiveInt, StageName, recorded_only


class HeldoutSet(Node):
    """The first `documents` held-out documents of a corpus by id, cut to `tokens` each."""

    corpus: StageName
    rows: Literal["text", "messages"] = Field(
        default="text", description="text: loss of every token; messages: loss of the assistant's tokens."
    )
    documents: PositiveInt = 40
    tokens: PositiveInt = Field(default=256, description="Weighted and unweighted tokens kept of each document.")


class Answers(Node):
    """Held-out prompts that every model answers greedily, for people to read."""

    corpus: StageName
    prompts: PositiveInt = 3
    max_tokens: PositiveInt = 128


class EvaluateStage(Node):
    """Models x held-out sets -> perplexity, bits per byte, loss; a few answers."""

    stage: Literal["evaluate"]
    models: list[str] = Field(min_length=1, description="Stages or artifacts, in the order of the table.")
    sets: dict[StageName, HeldoutSet] = Field(min_length=1)
    answers: Answers | None = None
    precision: Literal["bf16", "fp32"] = "bf16"
    resources: Resources = recorded_only(Resources())


class ReportStage(Node):
    """An evaluation and the lineage behind it -> one HTML file."""

    stage: Literal["report"]
    evaluation: StageName
