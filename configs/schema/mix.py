"""The stage that puts packed rows of several sources together by their share of the tokens: `mix`."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from configs.schema.tree import FileCount, Node, PositiveInt

Share = Annotated[float, Field(gt=0.0, le=1.0)]
Replayed = Annotated[float, Field(gt=0.0, lt=1.0)]

SUM_TOLERANCE = 1e-6
"""Of shares against 1: 0.1 + 0.2 + 0.7 is not 1 in binary, three times 0.33 is meant to be refused."""


class Replay(Node):
    """Text like that of pre-training, which keeps a model from forgetting while it learns a domain."""

    shards: str = Field(description="Stage or artifact with rows of general text or conversations.")
    share: Replayed = Field(default=0.05, description="Of all tokens of the mix.")


class MixStage(Node):
    """Shards -> shards in which every source has its share of the tokens, counted after packing."""

    stage: Literal["mix"]
    shares: dict[str, Share] = Field(
        min_length=1,
        description="Stage or artifact of packed texts or conversations -> its share of the tokens that are not replayed; "
        "they sum to 1. What is scarcest for its share is used whole and limits the mix.",
    )
    replay: Replay | None = None
    repeat: dict[str, PositiveInt] = Field(
        default={},
        description="Of a stage or artifact: how often a row may be in the mix, where there are too few for its share; "
        "default: once. Text that is seen four times teaches nearly as much as new text (arXiv 2305.16264), more often less.",
    )
    choice_seed: int = Field(
        default=0, ge=0, description="Which rows are taken where not all of a source are: another seed, other rows."
    )
    shards: FileCount = Field(default=8, description="Number of output shards; each has every source by its share.")

    @model_validator(mode="after")
    def _names_and_shares_fit(self) -> Self:
        total = sum(self.shares.values())
        if not math.isclose(total, 1, abs_tol=SUM_TOLERANCE):
            raise ValueError(
                f"shares sum to {total:g}, not to 1: they are parts of what is not replayed. Change one by {1 - total:+g}"
            )
        if self.replay is not None and self.replay.shards in self.shares:
            raise ValueError(f"{self.replay.shards} is in shares and in replay; give it one share, in one of them")
        unknown = next((name for name in self.repeat if name not in self.fractions), None)
        if unknown is not None:
            raise ValueError(f"repeat.{unknown}: not in this mix, which is made of {', '.join(self.fractions)}")
        return self

    @property
    def fractions(self) -> dict[str, float]:
        """The share of all tokens of every input, in order of their names."""
        total, replayed = sum(self.shares.values()), 0.0 if self.replay is None else self.replay.share
        fractions = {name: (1 - replayed) * share / total for name, share in self.shares.items()}
        if self.replay is not None:
            fractions[self.replay.shards] = replayed
        return dict(sorted(fractions.items()))
