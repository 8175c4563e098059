"""Which files of a store belong to nothing: what `acclimate gc` removes."""

import time
from dataclasses import dataclass

from cluster.artifacts import find_artifact
from cluster.lease import is_live, read_lease
from cluster.storage import Store


@dataclass(frozen=True)
class Leftover:
    """A directory below the store's root that nothing refers to."""

    path: str
    bytes: int
    why: str


def leftovers(store: Store) -> list[Leftover]:
    """Attempts that nobody writes any more: of unfinished artifacts (they could be resumed) and beside finished ones."""
    found = []
    for name in store.names("artifacts"):
        kind, _, key = name.rpartition("-")
        directory = store.below("artifacts", name)
        lease = read_lease(directory)
        if lease is not None and is_live(lease, time.time()):
            continue
        artifact = find_artifact(store, kind, key)
        for attempt in directory.names("attempts"):
            path = f"artifacts/{name}/attempts/{attempt}"
            if artifact is None:
                found.append(_leftover(store, path, "never finished; removing it means starting from the beginning"))
            elif artifact.record["content"] != f"attempts/{attempt}":
                found.append(_leftover(store, path, "an attempt before the one that finished"))
            elif directory.names("attempts", attempt, "checkpoints"):
                found.append(_leftover(store, f"{path}/checkpoints", "checkpoints of a finished stage"))
    return found


def _leftover(store: Store, path: str, why: str) -> Leftover:
    return Leftover(path, sum(info.size for info in store.files(path)), why)
