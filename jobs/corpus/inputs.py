"""Which files a corpus is made of, without Ray: `plan` shows them, their fingerprints enter the artifact's key.

config source (file, directory, glob, s3:// prefix, hf: data set) -> InputFile per file, sorted by source order and uri
"""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from cluster.storage import Store
from configs.schema.corpus import CorpusStage, Source
from jobs.corpus.hub_files import PREFIX, hub_files, names_one_file
from jobs.corpus.schema import DataError
from jobs.corpus.suffixes import suffixes_of
from jobs.corpus.unpack import without_packing
from jobs.fingerprint import file_sha256

SHOWN_SUFFIXES = 5
"""Of a directory in which nothing fits."""

BYTES_PER_TOKEN = 4.5
"""Plain English text in a 49k vocabulary: 4.65 characters a token on PubMed abstracts, a little more than one byte each."""
TOKENS_PER_PUBMED_DOCUMENT = 370
"""Measured on pubmed21n1298 with the SmolLM2 tokenizer: title and abstract."""
PUBMED_BYTES_PER_TOKEN = {".gz": 6.0, ".xml": 35.0}
"""File bytes for one token of title and abstract; the rest is mark-up, references and addresses. Same file."""


@dataclass(frozen=True)
class InputFile:
    """One file of a source.

    Example:
        InputFile(uri="assets/pubmed/a.xml.gz", location="/data/assets/pubmed/a.xml.gz", size=40002726,
                  fingerprint="sha256:53dd...", source="pubmed", licence="LicenseRef-NLM")
    """

    uri: str
    """As reached from the config: the same on every machine that has the same layout; documents are named by it."""
    location: str
    """Where it is opened: an absolute path or s3://..."""
    size: int
    fingerprint: str
    """`sha256:` of a local file, `etag:` of one on S3, `sha256:` or `git:` of one on a hub."""
    source: str
    licence: str
    modified_at: str | None = field(default=None, compare=False)
    """ISO 8601, UTC; None on a hub. It tells the reader of a record more, and changes nothing: not part of any key."""


def find_inputs(stage: CorpusStage, base: Path) -> list[InputFile]:
    """The files of all sources, in the order of the sources and by uri inside; relative paths start at `base`.

    Raises:
        DataError: a source matches no file, or two have one file by different terms; names the config key and the path.
    """
    found: list[InputFile] = []
    for name, source in stage.sources.items():
        if source.path.startswith("s3://"):
            files = _remote(name, source)
        elif source.path.startswith(PREFIX):
            files = _on_hub(name, source)
        else:
            files = _local(name, source, base)
        if not files:
            wanted = f"{', '.join(suffixes_of(source.format))} (of each also .gz and .zst)"
            raise DataError(
                f"sources.{name}.path: nothing found at {source.path} (looked in {base}){_what_is_there(source, base)}. "
                f"It must be a file, a glob, or a directory or prefix with files ending in {wanted}."
            )
        found += sorted(files, key=lambda file: file.uri)
    _check_terms(stage, found)
    return found


def _check_terms(stage: CorpusStage, files: Sequence[InputFile]) -> None:
    """Raises DataError where sources say different things of one file: the stricter one may be there on purpose."""
    said: dict[str, InputFile] = {}
    for file in files:
        other = said.setdefault(os.path.realpath(file.location) if "://" not in file.location else file.location, file)
        terms = [
            (source.licence, source.licence_column, source.confidentiality)
            for source in (stage.sources[other.source], stage.sources[file.source])
        ]
        if terms[0] != terms[1]:
            raise DataError(
                f"sources.{file.source} and sources.{other.source} both have {file.uri}, with different licences or "
                "confidentiality. Narrow the path of one of them, so that every file is in one source."
            )


def estimate_tokens(stage: CorpusStage, inputs: Sequence[InputFile]) -> dict[str, int]:
    """Tokens per source, from file sizes alone: bytes over the measured bytes of a token, before cleaning.

    Right within about 20 % for English text and PubMed; `limit_documents` is known to matter for PubMed only, where a
    document's mean length is known.
    """
    tokens = dict.fromkeys(stage.sources, 0)
    for file in inputs:
        per_token = BYTES_PER_TOKEN
        if stage.sources[file.source].format == "pubmed":
            per_token = PUBMED_BYTES_PER_TOKEN[".gz" if file.uri.lower().endswith(".gz") else ".xml"]
        tokens[file.source] += int(file.size / per_token)
    for name, source in stage.sources.items():
        if source.format == "pubmed" and source.limit_documents is not None:
            tokens[name] = min(tokens[name], source.limit_documents * TOKENS_PER_PUBMED_DOCUMENT)
    return tokens


def _local(name: str, source: Source, base: Path) -> list[InputFile]:
    top = base / Path(source.path).expanduser()
    if top.is_dir():
        paths = [path for path in _files_below(top) if _fits(path.name, source)]
    elif top.is_file():
        paths = [top]
    else:
        paths = [Path(match) for match in glob.glob(str(top), recursive=True) if Path(match).is_file()]
    return [_local_file(path, name, source, base) for path in paths]


def _fits(name: str, source: Source) -> bool:
    return without_packing(name).endswith(suffixes_of(source.format))


def _files_below(top: Path) -> Iterator[Path]:
    """All files, through links as well; a directory that is reached twice, or contains itself, is read at its first place."""
    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(top, followlinks=True):
        here = Path(folder).stat()
        if (here.st_dev, here.st_ino) in seen:
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        folders.sort()
        for path in (Path(folder, name) for name in sorted(names)):
            if path.is_file() or (path.is_symlink() and not path.exists()):
                yield path


def files_not_read(source: Source, base: Path) -> str:
    """Of a local directory, how many files end in something that the source does not read: "3 with .doc"; empty where none."""
    top = base / Path(source.path).expanduser()
    if source.path.startswith(("s3://", PREFIX)) or not top.is_dir():
        return ""
    others = (path for path in _files_below(top) if not _fits(path.name, source))
    suffixes = Counter(path.suffix.lower() or "no suffix" for path in others)
    return ", ".join(f"{count} with {suffix}" for suffix, count in suffixes.most_common(SHOWN_SUFFIXES))


def _what_is_there(source: Source, base: Path) -> str:
    """Of a local path at which no file was found: why what is there is none; empty where nothing is."""
    if source.path.startswith(("s3://", PREFIX)):
        return ""
    top = base / Path(source.path).expanduser()
    if top.is_symlink() and not top.exists():
        return f": it is a link to {top.readlink()}, which does not exist"
    if top.is_dir():
        told = files_not_read(source, base)
        return f": the directory has other files ({told})" if told else ": the directory has no files"
    return ": what is there is a pipe, a socket or a device, not a file" if top.exists() else ""


def _local_file(path: Path, name: str, source: Source, base: Path) -> InputFile:
    uri = path.relative_to(base).as_posix() if path.is_relative_to(base) else path.as_posix()
    try:
        uri.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"sources.{name}.path: the name of {uri!a} is not UTF-8, and documents are named by it; rename it"
        ) from error
    if path.is_symlink() and not path.exists():
        raise DataError(
            f"sources.{name}.path: {path} is a link to {path.readlink()}, which does not exist; mend or remove it"
        )
    sha256, stat = file_sha256(path), path.stat()
    modified_at = datetime.fromtimestamp(stat.st_mtime, UTC).isoformat()
    return InputFile(uri, str(path.absolute()), stat.st_size, f"sha256:{sha256}", name, source.licence, modified_at)


def _on_hub(name: str, source: Source) -> list[InputFile]:
    try:
        found = [
            file for file in hub_files(source.path) if names_one_file(source.path, file) or _fits(file.name, source)
        ]
    except DataError as error:
        raise DataError(f"sources.{name}.path: {error}") from error
    return [
        InputFile(file.location, file.location, file.size, file.fingerprint, name, source.licence) for file in found
    ]


def _remote(name: str, source: Source) -> list[InputFile]:
    wildcard = re.search(r"[*?[]", source.path)
    folder = source.path[: wildcard.start()].rpartition("/")[0] if wildcard else source.path.rstrip("/")
    store = Store(folder)
    files: list[InputFile] = []
    store.files()  # says what is wrong with an endpoint, a bucket or credentials
    # glob, not fnmatch: as on disk, `*` ends at a slash.
    found = store.fs.glob(source.path, detail=True) if wildcard else store.fs.find(folder, detail=True)
    for path, info in cast(dict[str, Any], found).items():
        uri = f"s3://{path}"
        wanted = wildcard or uri == source.path or _fits(path, source)
        if wanted and info["type"] == "file":
            etag = str(info["ETag"]).strip('"')
            modified = info.get("LastModified")
            modified_at = modified.astimezone(UTC).isoformat() if isinstance(modified, datetime) else None
            files.append(InputFile(uri, uri, int(info["size"]), f"etag:{etag}", name, source.licence, modified_at))
    return files
