"""Opened files as plain bytes, with what is packed unpacked on the way and held to limits.

.gz, .zst --unpack--> counted: no bomb --> buffered stream that rows are read from
text, HTML, PDF, DOCX --whole--> bytes, at most MAX_DOCUMENT_BYTES
"""

import gzip
import io
import zlib
from collections.abc import Callable
from typing import BinaryIO, cast

import zstandard

from jobs.corpus.raw import RowError

PACKED_SUFFIXES = (".gz", ".zst")

MAX_UNPACKED_RATIO = 250
"""Unpacked bytes for one packed byte, beyond FREE_UNPACKED_BYTES. JSON lines pack 3 to 10 times, logs up to 100; gzip ends at
1032, zstd beyond 10,000: what packs better than this holds no text."""
FREE_UNPACKED_BYTES = 64 << 20
"""Unpacked whatever the ratio: a small file of one repeated row is no bomb, and this much fits everywhere."""
ZSTD_WINDOW_BYTES = 128 << 20
"""What `zstd --long` asks for; the format allows terabytes, and a reader has to hold the window in memory."""
ZSTD_PIECE_BYTES = 2 << 10
"""Unpacked at once: blocks of 4 bytes may stand for 128 KiB, so this makes 64 MiB at most."""
MAX_DOCUMENT_BYTES = 256 << 20
"""Of a document that is read as a whole, unpacked: a scanned book of a thousand pages, or two hundred novels as text."""
READ_BYTES = 1 << 20

DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError)
"""What unpacking raises where the packed bytes are cut off or altered."""


def without_packing(name: str) -> str:
    """Example: "A.JSONL.GZ" -> "a.jsonl"."""
    name = name.lower()
    return next((name.removesuffix(suffix) for suffix in PACKED_SUFFIXES if name.endswith(suffix)), name)


def is_packed(name: str) -> bool:
    return name.lower().endswith(PACKED_SUFFIXES)


def buffered(file: BinaryIO) -> io.BufferedReader:
    """A stream whose `readline` keeps to its limit: that of fsspec's remote files takes none."""
    return file if isinstance(file, io.BufferedReader) else io.BufferedReader(_Counted(file.read), READ_BYTES)


def unpacked(file: BinaryIO, uri: str) -> BinaryIO:
    """A stream of the unpacked bytes, an io.BufferedReader; where nothing is packed, the file itself.

    Reading raises RowError `zip_bomb` where it goes beyond MAX_UNPACKED_RATIO, and one of DAMAGE.
    """
    if not is_packed(uri):
        return file
    packed = _Counted(file.read)
    if uri.lower().endswith(".gz"):
        # read1, not read: what was unpacked before the damage is given before the damage is.
        read = gzip.GzipFile(fileobj=cast(BinaryIO, io.BufferedReader(packed))).read1
    else:
        read = _Zstd(packed).read
    return cast(BinaryIO, io.BufferedReader(_Counted(read, packed), READ_BYTES))


def whole(file: BinaryIO) -> bytes:
    """All bytes of a document. Raises RowError `too_large`."""
    content = file.read(MAX_DOCUMENT_BYTES + 1)
    if len(content) > MAX_DOCUMENT_BYTES:
        raise RowError("too_large", f"a document of more than {MAX_DOCUMENT_BYTES >> 20} MiB; split it")
    return content


class _Counted(io.RawIOBase):
    """Counts what was read of a stream; beside the packed stream it came from, it ends a bomb."""

    def __init__(self, read: Callable[[int], bytes], packed: "_Counted | None" = None) -> None:
        super().__init__()
        self.take, self.packed, self.count = read, packed, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        data = self.take(len(buffer))
        buffer[: len(data)] = data
        self.count += len(data)
        if self.packed is not None and self.count > FREE_UNPACKED_BYTES + MAX_UNPACKED_RATIO * self.packed.count:
            raise RowError(
                "zip_bomb",
                f"{self.packed.count:,} packed bytes hold more than {self.count:,}; no text packs {MAX_UNPACKED_RATIO} times",
            )
        return len(data)


class _Zstd(io.RawIOBase):
    """The unpacked bytes of zstd frames. python-zstandard's own stream_reader gives what there is of a frame that is cut off, and
    no error; a decompressor of one frame knows whether it has ended."""

    def __init__(self, packed: _Counted) -> None:
        super().__init__()
        self.packed, self.frame, self.waiting, self.ready = packed, None, b"", memoryview(b"")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes; empty at the end only. Raises EOFError inside a frame, and ZstdError."""
        while not self.ready:
            self.waiting = self.waiting or self.packed.read(ZSTD_PIECE_BYTES) or b""
            if not self.waiting:
                if self.frame is not None:
                    raise EOFError("the last zstd frame is cut off")
                return b""
            if self.frame is None:
                self.frame = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES).decompressobj()
            self.ready = memoryview(self.frame.decompress(self.waiting))
            self.waiting = self.frame.unused_data
            if self.frame.eof:
                self.frame = None
        taken, self.ready = self.ready[:size], self.ready[size:]
        return bytes(taken)
