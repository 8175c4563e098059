"""Artifacts: what a stage leaves behind. A directory and a record, the record written last: no record, no artifact.

    artifacts/<kind>-<key>/
        lease/000002.json          who writes (cluster/lease.py)
        attempts/000002/...        what attempt 2 wrote
        artifact.json              the record: names the attempt that finished; created once, never changed

The key is a hash of what decides the result: stage kind, its `stage_version`, the config it reads, the keys of its parents.
What only describes the run (versions, threads, seeds, metrics, licences, times) stands in the record and not in the key.
Each attempt writes below its own number, so an old writer that was taken for dead cannot damage what a newer one writes.
"""

import hashlib
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster import kill_points
from cluster.lease import Lease, acquire
from cluster.storage import StorageError, Store
from configs.errors import UserError

KEY_CHARACTERS = 16
"""64 bits of sha256: a collision among a million artifacts has probability 3e-8."""

INSIDE_ARTIFACT = re.compile(rf"(.*)/artifacts/([a-z]+)-([0-9a-f]{{{KEY_CHARACTERS}}})(?:/.*)?")
"""A store, and kind and key of one of its artifacts."""


class ArtifactNotFound(UserError, LookupError):
    """No finished artifact has that name or key."""


@dataclass(frozen=True)
class Artifact:
    """A finished artifact. `content` is the directory of its files."""

    store: Store
    kind: str
    key: str
    record: dict[str, Any] = field(repr=False)

    @property
    def content(self) -> Store:
        return artifact_directory(self.store, self.kind, self.key).below(self.record["content"])

    @property
    def name(self) -> str:
        return str(self.record["name"])


@dataclass(frozen=True)
class Attempt:
    """The right to produce one artifact: write below `content`, then `commit`."""

    directory: Store
    kind: str
    key: str
    lease: Lease

    @property
    def number(self) -> int:
        return self.lease.attempt

    @property
    def content_path(self) -> str:
        return f"attempts/{self.number:06d}"

    @property
    def content(self) -> Store:
        return self.directory.below(self.content_path)

    def commit(self, record: dict[str, Any]) -> None:
        """Makes the attempt's content the artifact. Raises LeaseLost where a newer attempt writes."""
        self.lease.check()
        kill_points.reach("after_data_before_record")
        # Checkpoints are no content: they go once the record stands.
        kept = [info for info in self.content.files() if not info.name.startswith("checkpoints/")]
        files = [{"name": info.name, "size": info.size} for info in kept]
        whole = {
            "kind": self.kind,
            "key": self.key,
            "content": self.content_path,
            "files": files,
            "finished_at": time.time(),
            **record,
        }
        # Where an older attempt was quicker by a hair its record stands: both computed the same thing.
        self.directory.create_json("artifact.json", whole)


def artifact_key(kind: str, stage_version: int, config: dict[str, Any], parents: dict[str, str]) -> str:
    """The key of what a stage would produce: 16 hexadecimal digits."""
    identity = {"kind": kind, "stage_version": stage_version, "config": config, "parents": parents}
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:KEY_CHARACTERS]


def artifact_directory(store: Store, kind: str, key: str) -> Store:
    return store.below("artifacts", f"{kind}-{key}")


def find_artifact(store: Store, kind: str, key: str) -> Artifact | None:
    """The finished artifact of that key, None where there is none."""
    try:
        record = artifact_directory(store, kind, key).read_json("artifact.json")
    except FileNotFoundError:
        return None
    return Artifact(store, kind, key, record)


def list_artifacts(store: Store) -> list[Artifact]:
    """All finished artifacts, oldest first."""
    found = []
    for name in store.names("artifacts"):
        kind, _, key = name.rpartition("-")
        artifact = find_artifact(store, kind, key)
        if artifact is not None:
            found.append(artifact)
    return sorted(found, key=lambda artifact: artifact.record["finished_at"])


def find_named(store: Store, name: str, kinds: tuple[str, ...] = ()) -> Artifact:
    """The newest finished artifact with that stage name, key (or its beginning) or directory name.

    Raises ArtifactNotFound listing what there is.
    """
    candidates = [artifact for artifact in list_artifacts(store) if not kinds or artifact.kind in kinds]
    for artifact in reversed(candidates):
        if name in (artifact.name, artifact.key, f"{artifact.kind}-{artifact.key}"):
            return artifact
    begins = [artifact for artifact in candidates if len(name) >= 4 and artifact.key.startswith(name)]
    if len(begins) == 1:
        return begins[0]
    known = ", ".join(f"{artifact.name} ({artifact.key})" for artifact in candidates) or "nothing yet"
    raise ArtifactNotFound(
        f"{store.root}: no finished {' or '.join(kinds) or 'artifact'} is called {name!r}. There is: {known}."
    )


def artifact_around(directory: Store) -> Artifact | None:
    """The artifact that a directory lies in, as the paths that a run prints do: its record holds for them too.

    Raises ArtifactNotFound where that has no record.
    """
    if directory.is_s3:
        place = re.sub("(?<!:)/+", "/", directory.root)
    else:
        place = str(Path(directory.root).resolve())  # without links and ..
    inside = INSIDE_ARTIFACT.fullmatch(place)
    if inside is None:
        return None
    root, kind, key = inside.groups()
    found = find_artifact(Store(root or "/"), kind, key)
    if found is None:
        raise ArtifactNotFound(f"{directory.root} lies in an artifact that was never finished, or was removed since")
    return found


@contextmanager
def attempt(store: Store, kind: str, key: str) -> Iterator[Attempt]:
    """Holds the lease of an artifact for the time of the block. Raises LeaseHeld naming the holder."""
    directory = artifact_directory(store, kind, key)
    lease = acquire(directory)
    try:
        yield Attempt(directory, kind, key, lease)
    finally:
        with suppress(StorageError):  # what is done is done; it expires by itself
            lease.release()


def ancestors(store: Store, artifact: Artifact) -> list[Artifact]:
    """The artifact's parents, theirs, and so on; each once, nearest first. Raises ArtifactNotFound for a missing one."""
    found: dict[str, Artifact] = {}
    waiting = list(artifact.record["parents"].values())
    while waiting:
        parent = waiting.pop(0)
        if parent in found:
            continue
        kind, _, key = parent.rpartition("-")
        ancestor = find_artifact(store, kind, key)
        if ancestor is None:
            raise ArtifactNotFound(f"{store.root}: {parent}, an ancestor of {artifact.name}, is gone")
        found[parent] = ancestor
        waiting.extend(ancestor.record["parents"].values())
    return list(found.values())
