"""Limits and alarms of the stage that learns from its own answers."""

from pydantic import Field

from configs.schema.tree import Node, PositiveInt


class Health(Node):
    """What is looked at after every step."""

    kl_ceiling: float | None = Field(
        default=None, gt=0, description="Nats per answer to the reference above which the stage stops; null: never."
    )
    mismatch_ceiling: float | None = Field(
        default=None, gt=0, description="KL, in nats a token, between sampler and learner above which it stops."
    )
    least_end_rate: float = Field(
        default=0.2, ge=0, le=1, description="Said in words where fewer answers end by themselves."
    )
    probe_every_steps: PositiveInt = Field(
        default=10,
        description="How often new weights are judged by what a sampler computes with them, which costs two passes over 2,048 "
        "tokens; names, hashes and versions are checked every time, and a new engine is always probed.",
    )

    def probes(self, step: int) -> bool:
        """Whether the weights of step `step` (from 0) are probed."""
        return (step + 1) % self.probe_every_steps == 0
