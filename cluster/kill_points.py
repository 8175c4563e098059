"""Named places where a test can kill the process, to show that nothing is lost there.

    ACCLIMATE_KILL_AT=NAME             the first process that comes to `reach(NAME)` ends by SIGKILL, as by a power cut or
                                       the kernel's out-of-memory killer; so does every later one at its first time
    ACCLIMATE_KILL_AT=NAME/critic:2,.. only a process that is a critic, at its second time; several places by commas
    ACCLIMATE_KILLED=DIRECTORY         each place kills once: who dies leaves a file there, and later ones live

Without the first variable a point costs one dictionary look-up.
"""

import os
import signal
from collections import Counter
from pathlib import Path

ENVIRONMENT = "ACCLIMATE_KILL_AT"
KILLED = "ACCLIMATE_KILLED"

KILL_POINTS = (
    "after_data_before_record",
    "inside_upload",
    "inside_export",
    "after_optimizer_step_before_checkpoint",
    "during_pruning",
    # The driver of a corpus or of shards: at every report of a partition, and around the comparison of a whole corpus.
    "partition_reported",
    "corpus_sorted",
    "corpus_clustered",
    # Its workers, with their files written or their rows made, before anybody was told.
    "corpus_reading",
    "corpus_sorting",
    "corpus_pairing",
    "corpus_clustering",
    "corpus_paragraphs",
    "corpus_keeping",
    # The driver of PPO: after sampling, after an update and before its weights are sent, while a checkpoint is written.
    "ppo_sampled",
    "ppo_updated",
    "ppo_saving",
    # Its actors, in the middle of what the name says.
    "ppo_sampling",
    "ppo_scoring",
    "ppo_learning",
    "ppo_announcing",
    "ppo_syncing",
)

_reached: Counter[str] = Counter()
_who = ""


def this_is(who: str) -> None:
    """Names the role of this process."""
    global _who  # noqa: PLW0603 - a process has one role from its start to its end
    _who = who


def reach(name: str) -> None:
    """Ends this process if the environment asks for it here."""
    assert name in KILL_POINTS, name
    wanted = os.environ.get(ENVIRONMENT)
    if wanted is None:
        return
    for place in wanted.split(","):
        point, _, count = place.partition(":")
        if point in (name, f"{name}/{_who}"):
            _reached[place] += 1
            if _reached[place] == int(count or 1) and _is_first_killed(place):
                os.kill(os.getpid(), signal.SIGKILL)


def file_of(place: str) -> str:
    """The name of the file that the process which was killed at a place leaves behind."""
    return place.replace("/", "-")


def _is_first_killed(place: str) -> bool:
    directory = os.environ.get(KILLED)
    if directory is None:
        return True
    try:
        Path(directory, file_of(place)).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
