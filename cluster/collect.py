"""Which files of a store nothing needs any more: what `acclimate gc` removes.

    finished artifact      earlier attempts, checkpoints            -> leftover
    unfinished artifact    attempts that nothing can be gone on from -> leftover
                           attempts with a checkpoint               -> kept; or, where asked for and where no config's
                                                                       newest run would go on from them, leftover

A finished artifact is never removed, nor anything below a live lease.
"""

import time
from dataclasses import dataclass

from cluster.artifacts import find_artifact
from cluster.lease import LeaseHeld, acquire, is_live, read_lease
from cluster.runs import newest_runs
from cluster.storage import Store

RESUMED_FROM = ("checkpoints", "reference.parquet")
"""What a later attempt takes over from an earlier one (jobs/train/checkpoint.py, jobs/train/reference.py)."""


@dataclass(frozen=True)
class Leftover:
    """A directory below the store's root, what it weighs, and why it is removed or kept."""

    path: str
    bytes: int
    why: str


@dataclass(frozen=True)
class Collected:
    """What can be removed, and which unfinished work is kept."""

    leftovers: list[Leftover]
    kept: list[Leftover]


def collect(store: Store, unfinished: bool = False) -> Collected:
    """Looks through all artifacts. With `unfinished`, checkpoints that no config's newest run would go on from count too."""
    newest = newest_runs(store)
    # A run that was begun before runs noted what they plan may want anything.
    unfinished = unfinished and all("planned" in status for status in newest)
    wanted = {directory for status in newest for directory in status.get("planned", {}).values()}
    found = Collected([], [])
    for name in store.names("artifacts"):
        kind, _, key = name.rpartition("-")
        directory = store.below("artifacts", name)
        lease = read_lease(directory)
        if lease is not None and is_live(lease, time.time()):
            continue
        artifact = find_artifact(store, kind, key)
        if artifact is None:
            _sort_unfinished(store, name, found, wanted=name in wanted or not unfinished)
            continue
        for attempt in directory.names("attempts"):
            path = f"artifacts/{name}/attempts/{attempt}"
            if artifact.record["content"] != f"attempts/{attempt}":
                found.leftovers.append(_leftover(store, path, "an attempt before the one that finished"))
            elif directory.names("attempts", attempt, "checkpoints"):
                found.leftovers.append(_leftover(store, f"{path}/checkpoints", "checkpoints of a finished stage"))
    return found


def remove(store: Store, leftover: Leftover) -> bool:
    """Removes a leftover; False, and nothing removed, where somebody has begun to write its artifact since.

    Its lease is held meanwhile, so that nobody begins to go on from what disappears.
    """
    _, name, _ = leftover.path.split("/", 2)
    kind, _, key = name.rpartition("-")
    if find_artifact(store, kind, key) is None:
        try:
            lease = acquire(store.below("artifacts", name))
        except LeaseHeld:
            return False
        try:
            store.remove(leftover.path)
        finally:
            lease.release()
    else:
        store.remove(leftover.path)
    return True


def _sort_unfinished(store: Store, name: str, found: Collected, wanted: bool) -> None:
    for attempt in store.names("artifacts", name, "attempts"):
        path = f"artifacts/{name}/attempts/{attempt}"
        if not set(RESUMED_FROM) & set(store.names(path)):
            found.leftovers.append(_leftover(store, path, "ended before anything that could be gone on from"))
        elif wanted:
            found.kept.append(_leftover(store, path, "unfinished; the same command goes on from it"))
        else:
            found.leftovers.append(_leftover(store, path, "unfinished, and no config's newest run asks for it"))


def _leftover(store: Store, path: str, why: str) -> Leftover:
    return Leftover(path, sum(info.size for info in store.files(path)), why)
