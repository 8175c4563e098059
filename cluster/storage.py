"""Files on local disk or S3 through one small set of verbs.

Nothing is renamed, appended to or updated in place as far as a reader can see: a file is absent or whole. On S3 a PUT is
whole by itself; on disk a file is written beside its place and linked there. `create` is the only decision between
writers: it succeeds for exactly one of them (S3: If-None-Match; disk: link(2), which refuses an existing name).

Credentials and endpoints come from the environment of each process (AWS_*), never from configs.
"""

import errno
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec

from cluster.store_errors import StorageError, is_missing_bucket, storage_error
from configs.errors import UserError

CONFLICT_ATTEMPTS = 5
"""S3 answers 409 to a conditional PUT that met another one and asks to try again; botocore does not by itself."""


@dataclass(frozen=True)
class Retries:
    """How long S3 is tried again. Two layers multiply: botocore's attempts (5xx, throttling, no connection; exponential
    back-off) and s3fs's rounds around them (bodies cut off in their middle)."""

    connect_timeout_s: float
    read_timeout_s: float
    attempts: int
    rounds: int


class Patience(Enum):
    """RUN outlasts an outage of a minute (503 for 72 s, no connection for 80 s, measured once); PROBE reports an unreachable
    endpoint within half a minute."""

    RUN = Retries(connect_timeout_s=10, read_timeout_s=120, attempts=10, rounds=5)
    PROBE = Retries(connect_timeout_s=5, read_timeout_s=8, attempts=2, rounds=1)


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
    patience: Patience = Patience.RUN

    @property
    def is_s3(self) -> bool:
        return self.root.startswith("s3://")

    @cached_property
    def fs(self) -> fsspec.AbstractFileSystem:
        return _s3_filesystem(self.patience.value) if self.is_s3 else fsspec.filesystem("file")

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "patience": self.patience}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def path(self, *parts: str) -> str:
        """The full path of `parts`, with s3:// where the store is on S3."""
        return "/".join([self.root.rstrip("/"), *parts])

    def below(self, *parts: str) -> "Store":
        """The store whose root is `parts` below this one."""
        return Store(self.path(*parts), self.patience)

    # Reading. Absence raises FileNotFoundError; whatever else goes wrong, here and in writing, raises StorageError.

    def read(self, *parts: str) -> bytes:
        """Raises FileNotFoundError."""
        # s3fs reads large files in concurrent ranges, and does not try a range again whose connection was cut.
        options = {"max_concurrency": 1} if self.is_s3 else {}
        with self._explained():
            return cast(bytes, self.fs.cat_file(self.path(*parts), **options))

    def read_range(self, start: int, length: int, *parts: str) -> bytes:
        """`length` bytes from `start`, fewer where the file ends before. Raises FileNotFoundError."""
        with self._explained():
            return cast(bytes, self.fs.cat_file(self.path(*parts), start=start, end=start + length))

    def read_json(self, *parts: str) -> Any:
        """Raises FileNotFoundError."""
        return json.loads(self.read(*parts))

    def open(self, *parts: str) -> BinaryIO:
        """Raises FileNotFoundError. Reading from what is returned raises what fsspec raises."""
        with self._explained():
            return cast(BinaryIO, self.fs.open(self.path(*parts), "rb"))

    def exists(self, *parts: str) -> bool:
        with self._explained():
            return bool(self.fs.exists(self.path(*parts)))

    def names(self, *parts: str) -> list[str]:
        """Names directly below, files and directories, sorted; empty where nothing is."""
        try:
            with self._explained():
                entries = self.fs.ls(self.path(*parts), detail=False)
        except FileNotFoundError:
            return []
        top = _strip_scheme(self.path(*parts))
        names = {entry.rstrip("/").rsplit("/", 1)[-1] for entry in entries if entry.rstrip("/") != top}
        return sorted(name for name in names if not name.startswith(".writing-"))

    def files(self, *parts: str) -> list[FileInfo]:
        """All files below, sorted by name relative to `parts`; empty where nothing is."""
        top = self.path(*parts)
        with self._explained():
            found = cast(dict[str, dict[str, Any]], self.fs.find(top, detail=True))
        prefix = len(_strip_scheme(top)) + 1
        # Other programs (pyarrow, the AWS console) put empty objects named "directory/" for directories.
        infos = [FileInfo(name[prefix:], int(info["size"])) for name, info in found.items() if not name.endswith("/")]
        return sorted((info for info in infos if ".writing-" not in info.name), key=lambda info: info.name)

    # Writing

    def write(self, path: str, data: bytes) -> None:
        """Writes or replaces a whole file."""
        with self._explained():
            if self.is_s3:
                self.fs.pipe_file(self.path(path), data)
            else:
                _write_local(Path(self.path(path)), data, os.replace)

    def create(self, path: str, data: bytes) -> bool:
        """Writes a whole file unless it exists; False, and nothing written, where it does.

        `data` must be this writer's own (hold its id): a PUT that succeeded but whose answer was lost is answered
        "exists" when it is tried again, and is then recognised by its content.
        """
        with self._explained():
            try:
                if self.is_s3:
                    self._create_on_s3(path, data)
                else:
                    _write_local(Path(self.path(path)), data, os.link)
            except FileExistsError:
                return self.read(path) == data
            return True

    def write_json(self, path: str, value: object) -> None:
        self.write(path, _json_bytes(value))

    def create_json(self, path: str, value: object) -> bool:
        return self.create(path, _json_bytes(value))

    def put(self, local: Path, path: str) -> None:
        """Copies a local file into the store. Raises FileNotFoundError where there is no local file."""
        with self._explained():
            if self.is_s3:
                self.fs.put_file(str(local), self.path(path))
            else:
                with _written_beside(Path(self.path(path)), os.replace) as writing:
                    shutil.copyfile(local, writing)

    def get(self, path: str, local: Path) -> None:
        """Copies a file of the store to a local path, whole or not at all. Raises FileNotFoundError."""
        with self._explained(), _written_beside(local, os.replace) as writing:
            self.fs.get_file(self.path(path), str(writing))

    def remove(self, *parts: str) -> None:
        """Removes a file or everything below a directory; nothing happens where nothing is."""
        with self._explained():
            if self.fs.exists(self.path(*parts)):
                self.fs.rm(self.path(*parts), recursive=True)

    def _create_on_s3(self, path: str, data: bytes) -> None:
        for attempt in range(CONFLICT_ATTEMPTS):
            try:
                self.fs.pipe_file(self.path(path), data, mode="create")
                return
            except OSError as error:
                if error.errno != errno.EBUSY or attempt == CONFLICT_ATTEMPTS - 1:
                    raise
                time.sleep(0.1 * 2**attempt)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (StorageError, FileExistsError):
            raise
        except FileNotFoundError as error:
            if is_missing_bucket(error):
                raise storage_error(self.root, self.is_s3, error) from error
            raise
        except Exception as error:
            raise storage_error(self.root, self.is_s3, error) from error


def _s3_filesystem(retries: Retries) -> fsspec.AbstractFileSystem:
    filesystem = fsspec.filesystem(
        "s3",
        use_listings_cache=False,
        skip_instance_cache=True,
        config_kwargs={
            "connect_timeout": retries.connect_timeout_s,
            "read_timeout": retries.read_timeout_s,
            "retries": {"mode": "standard", "max_attempts": retries.attempts},
        },
    )
    filesystem.retries = retries.rounds
    return filesystem


@contextmanager
def _written_beside(target: Path, place: Callable[[Path, Path], None]) -> Iterator[Path]:
    """Yields a path beside `target` to write to and places it when that is done; nothing is left where it is not."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # a file in the directory's place; `create` must not take it for its own target
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(target.parent)) from error
    except (
        FileNotFoundError
    ) as error:  # what /proc and the like say; elsewhere it means that a file to read is not there
        raise PermissionError(errno.EACCES, "no directory can be made here", str(target.parent)) from error
    writing = target.with_name(f".writing-{uuid.uuid4().hex}")
    try:
        yield writing
        with open(writing, "rb") as file:
            os.fsync(file.fileno())
        place(writing, target)
    finally:
        writing.unlink(missing_ok=True)


def _write_local(target: Path, data: bytes, place: Callable[[Path, Path], None]) -> None:
    with _written_beside(target, place) as writing:
        writing.write_bytes(data)


def _strip_scheme(path: str) -> str:
    return path.removeprefix("s3://").rstrip("/")


class NoStore(UserError):
    """What is given as a store is neither a directory nor an s3:// prefix."""


def open_store(root: str, patience: Patience = Patience.RUN) -> Store:
    """A store at a directory (made absolute) or an s3:// prefix. Raises NoStore where it can be neither."""
    scheme, separator, rest = root.partition("://")
    if (
        not root.strip()
        or (separator and (scheme != "s3" or not rest.strip("/")))
        or (root.startswith("s3:/") and not separator)
    ):
        raise NoStore(f"store: {root!r} is no place for artifacts; give a directory or s3://BUCKET/PREFIX.")
    return Store(root.rstrip("/") if root.startswith("s3://") else str(Path(root).expanduser().absolute()), patience)


def check_store(store: Store) -> None:
    """Writes, reads and removes one small file. Raises StorageError, or DiskFull, with what to mend."""
    probe = f"probe-{uuid.uuid4().hex}"
    probed = Store(store.root, Patience.PROBE)
    probed.write(probe, b"acclimate")
    if read_probe(probed, probe) != b"acclimate":
        raise StorageError(f"{store.root}: what was written is not what is read back")
    probed.remove(probe)


def read_probe(probed: Store, name: str) -> bytes:
    """A small file, asked for twice: with Patience.PROBE an answer that is cut off once is an error. Raises StorageError."""
    try:
        return probed.read(name)
    except StorageError:
        return probed.read(name)


def _json_bytes(value: object) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"
