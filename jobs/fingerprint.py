"""sha256 of local files, each read once in a process unless it changes."""

import functools
import hashlib
from pathlib import Path

from configs.errors import UserError


class Unreadable(UserError):
    """A local input that may not be read."""


def file_sha256(path: Path) -> str:
    """Of the file's bytes. Raises Unreadable.

    A file whose size, inode and times (in nanoseconds) are what they were is not read again: planning, checking and looking
    after a stage whether its inputs changed would otherwise read a corpus four times.
    """
    try:
        stat = path.stat()
        return _sha256(path, stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns)
    except OSError as error:
        raise Unreadable(f"{path} cannot be read: {error.strerror}. Check its owner and permissions.") from error


@functools.cache
def _sha256(path: Path, *state: int) -> str:
    del state  # part of the cache's key
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
