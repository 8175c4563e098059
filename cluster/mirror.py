"""Brings a model from S3 to the disk of every node that will load it, once.

    driver: model_content(store) -> ModelContent   names, sizes and ETags of the files, and their hash
    node:   mirror(content)      -> local path     ~/.cache/acclimate/models/<hash>/, shared by all replicas of the node

The path is decided by content: another version of the same name never meets a stale copy. (Ray's own cloud mirror goes by
the model's name.) Credentials come from the environment of each node.
"""

import fcntl
import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from cluster.storage import FileInfo, Store
from configs.errors import UserError

CACHE_VARIABLE = "ACCLIMATE_CACHE"
KEY_CHARACTERS = 16


class ModelNotOnNode(UserError, RuntimeError):
    """A replica runs on a host that cannot see the model's directory, or nodes disagree about its place."""


@dataclass(frozen=True)
class ModelContent:
    """Which files a model consists of. `key` is None for a directory, which is used where it lies.

    Example:
        ModelContent(root="s3://bucket/artifacts/sft-1f.../model", key="9c31d0...", files=(FileInfo("config.json", 713),))
    """

    root: str
    key: str | None
    files: tuple[FileInfo, ...]


def model_content(model: Store) -> ModelContent:
    """Lists the files of `model`; hashes names, sizes and ETags where it is on S3."""
    files = tuple(model.files())
    if not model.is_s3:
        return ModelContent(model.root, None, files)
    details = cast(dict[str, dict[str, Any]], model.fs.find(model.root, detail=True))
    facts = sorted(f"{name} {info['size']} {info['ETag']}" for name, info in details.items())
    return ModelContent(model.root, hashlib.sha256("\n".join(facts).encode()).hexdigest()[:KEY_CHARACTERS], files)


def mirror(content: ModelContent) -> str:
    """The path of the model on this node, after it is complete there.

    Processes of one node take turns by a file lock. Raises ModelNotOnNode.
    """
    if content.key is None:
        if not Path(content.root, "config.json").is_file():
            raise ModelNotOnNode(
                f"{content.root} is not on {os.uname().nodename}: put the model on S3 and serve s3://..."
            )
        return content.root
    cache = Path(os.environ.get(CACHE_VARIABLE, "~/.cache/acclimate")).expanduser() / "models"
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / content.key
    with open(cache / f"{content.key}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            writing = cache / f"{content.key}.writing"
            shutil.rmtree(writing, ignore_errors=True)  # left by a process that was killed; we hold the lock now
            source = Store(content.root)
            for file in content.files:
                source.get(file.name, writing / file.name)
            writing.rename(target)
    return str(target)
