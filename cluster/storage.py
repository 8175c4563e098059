"""Files on local disk or S3 through one small set of verbs.

Nothing is renamed, appended to or updated in place as far as a reader can see: a file is absent or whole. On S3 a PUT is
whole by itself; on disk a file is written beside its place and linked there. `create` is the only decision between
writers: it succeeds for exactly one of them (S3: If-None-Match; disk: link(2), which refuses an existing name).

Credentials and endpoints come from the environment of each process (AWS_*), never from configs.
"""

import json
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec

S3_CONNECT_TIMEOUT_S = 10
"""Long enough for a slow first TLS handshake; an unreachable endpoint is reported within half a minute."""
S3_READ_TIMEOUT_S = 120
S3_ATTEMPTS = 5
"""botocore's standard mode: exponential back-off on 5xx, throttling and cut connections."""


class StorageError(RuntimeError):
    """The store cannot be reached, read or written; the message says what to check."""


@dataclass(frozen=True)
class FileInfo:
    """A file below a store. `name` is relative to the directory that was listed."""

    name: str
    size: int


@dataclass(frozen=True)
class Store:
    """A directory on disk or an S3 prefix. Picklable: each process opens its own connection.

    Example:
        store = Store("s3://bucket/acclimate"); store.write("runs/a.json", b"{}"); store.read("runs/a.json")
    """

    root: str

    @property
    def is_s3(self) -> bool:
        return self.root.startswith("s3://")

    @cached_property
    def fs(self) -> fsspec.AbstractFileSystem:
        if self.is_s3:
            return fsspec.filesystem(
                "s3",
                use_listings_cache=False,
                skip_instance_cache=True,
                config_kwargs={
                    "connect_timeout": S3_CONNECT_TIMEOUT_S,
                    "read_timeout": S3_READ_TIMEOUT_S,
                    "retries": {"mode": "standard", "max_attempts": S3_ATTEMPTS},
                },
            )
        return fsspec.filesystem("file")

    def __getstate__(self) -> dict[str, str]:
        return {"root": self.root}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__dict__.update(state)

    def path(self, *parts: str) -> str:
        """The full path of `parts`, with s3:// where the store is on S3."""
        return "/".join([self.root.rstrip("/"), *parts])

    def below(self, *parts: str) -> "Store":
        """The store whose root is `parts` below this one."""
        return Store(self.path(*parts))

    # Reading

    def read(self, *parts: str) -> bytes:
        """Raises FileNotFoundError."""
        return cast(bytes, self.fs.cat_file(self.path(*parts)))

    def read_json(self, *parts: str) -> Any:
        """Raises FileNotFoundError."""
        return json.loads(self.read(*parts))

    def open(self, *parts: str) -> BinaryIO:
        return cast(BinaryIO, self.fs.open(self.path(*parts), "rb"))

    def exists(self, *parts: str) -> bool:
        return bool(self.fs.exists(self.path(*parts)))

    def names(self, *parts: str) -> list[str]:
        """Names directly below, files and directories, sorted; empty where nothing is."""
        try:
            entries = self.fs.ls(self.path(*parts), detail=False)
        except FileNotFoundError:
            return []
        names = [entry.rstrip("/").rsplit("/", 1)[-1] for entry in entries]
        return sorted(name for name in names if not name.startswith(".writing-"))

    def files(self, *parts: str) -> list[FileInfo]:
        """All files below, sorted by name relative to `parts`; empty where nothing is."""
        top = self.path(*parts)
        found = self.fs.find(top, detail=True)
        prefix = len(top.removeprefix("s3://").rstrip("/")) + 1
        infos = [FileInfo(name[prefix:], int(info["size"])) for name, info in found.items()]
        return sorted((info for info in infos if ".writing-" not in info.name), key=lambda info: info.name)

    # Writing

    def write(self, path: str, data: bytes) -> None:
        """Writes or replaces a whole file."""
        if self.is_s3:
            self.fs.pipe_file(self.path(path), data)
        else:
            self._write_local(path, data, os.replace)

    def create(self, path: str, data: bytes) -> bool:
        """Writes a whole file unless it exists; False, and nothing written, where it does.

        `data` must be this writer's own (hold its id): a PUT that succeeded but whose answer was lost is answered
        "exists" when it is tried again, and is then recognised by its content.
        """
        try:
            if self.is_s3:
                self.fs.pipe_file(self.path(path), data, mode="create")
            else:
                self._write_local(path, data, os.link)
        except FileExistsError:
            return self.read(path) == data
        return True

    def write_json(self, path: str, value: object) -> None:
        self.write(path, _json_bytes(value))

    def create_json(self, path: str, value: object) -> bool:
        return self.create(path, _json_bytes(value))

    def put(self, local: Path, path: str) -> None:
        """Copies a local file into the store."""
        if self.is_s3:
            self.fs.put_file(str(local), self.path(path))
        else:
            target = Path(self.path(path))
            target.parent.mkdir(parents=True, exist_ok=True)
            writing = target.with_name(f".writing-{uuid.uuid4().hex}")
            shutil.copyfile(local, writing)
            writing.replace(target)

    def get(self, path: str, local: Path) -> None:
        """Copies a file of the store to a local path."""
        local.parent.mkdir(parents=True, exist_ok=True)
        self.fs.get_file(self.path(path), str(local))

    def remove(self, *parts: str) -> None:
        """Removes a file or everything below a directory; nothing happens where nothing is."""
        if self.exists(*parts):
            self.fs.rm(self.path(*parts), recursive=True)

    def _write_local(self, path: str, data: bytes, place: Callable[[Path, Path], None]) -> None:
        target = Path(self.path(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        writing = target.with_name(f".writing-{uuid.uuid4().hex}")
        try:
            with open(writing, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            place(writing, target)
        finally:
            writing.unlink(missing_ok=True)


def open_store(root: str) -> Store:
    """A store at a directory (made absolute) or an s3:// prefix."""
    return Store(root.rstrip("/")) if root.startswith("s3://") else Store(str(Path(root).expanduser().absolute()))


def check_store(store: Store) -> None:
    """Writes, reads and removes one small file. Raises StorageError with what to mend."""
    probe = f"probe-{uuid.uuid4().hex}"
    try:
        store.write(probe, b"acclimate")
        if store.read(probe) != b"acclimate":
            raise StorageError(f"{store.root}: what was written is not what is read back")
        store.remove(probe)
    except StorageError:
        raise
    except Exception as error:
        raise StorageError(_explain(store, error)) from error


def _explain(store: Store, error: Exception) -> str:
    reason = f"{type(error).__name__}: {error}".strip()
    if not store.is_s3:
        return f"{store.root} cannot be written ({reason}). Check the directory's owner and `df -h {store.root}`."
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "the default AWS endpoint")
    return (
        f"{store.root} cannot be reached or written through {endpoint} ({reason}). "
        "Check AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and that the bucket exists."
    )


def _json_bytes(value: object) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"
