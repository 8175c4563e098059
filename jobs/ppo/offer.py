"""What passes between policy and samplers when weights move: an offer of handles, and what became of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.weights import Bucket, Manifest
from jobs.ppo.job import Handle
from jobs.ppo.probe import ProbeReading


@dataclass(frozen=True)
class Announced:
    """What a policy offers its samplers: handles and their hashes."""

    manifest: Manifest
    buckets: Sequence[Bucket]
    """Their data are handles."""
    probe: list[Handle]
    """Of one Probe; empty for a sync without."""


@dataclass(frozen=True)
class Synced:
    """What a sampler says after it has taken new weights.

    Example:
        Synced(mismatch=0.021, position=0.98)
    """

    mismatch: float
    """Root mean square of sampler minus learner on the probe, in nats; NaN without a probe."""
    position: float
    """0 = old weights, 1 = new ones; NaN where they do not differ measurably."""

    @classmethod
    def of(cls, reading: ProbeReading | None) -> "Synced":
        """What a probe says, or nothing without one."""
        if reading is None:
            return cls(math.nan, math.nan)
        return cls(reading.mismatch, reading.position if reading.is_sure else math.nan)
