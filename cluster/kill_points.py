"""Named places where a test can kill the process, to show that nothing is lost there.

`ACCLIMATE_KILL_AT=NAME` or `NAME:N` (the N-th time) makes `reach(NAME)` end the process by SIGKILL, as a power cut or the
kernel's out-of-memory killer would. Without the variable a point costs one dictionary look-up.
"""

import os
import signal
from collections import Counter

ENVIRONMENT = "ACCLIMATE_KILL_AT"

KILL_POINTS = (
    "after_data_before_record",
    "inside_upload",
    "after_optimizer_step_before_checkpoint",
    "during_pruning",
    "ppo_sampled",
    "ppo_updated",
)

_reached: Counter[str] = Counter()


def reach(name: str) -> None:
    """Ends this process if the environment asks for it here."""
    assert name in KILL_POINTS, name
    wanted = os.environ.get(ENVIRONMENT)
    if wanted is None:
        return
    point, _, count = wanted.partition(":")
    if point == name:
        _reached[name] += 1
        if _reached[name] == int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)
