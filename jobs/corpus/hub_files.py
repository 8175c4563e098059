"""Files of a data set on a hub (HF_ENDPOINT), pinned to a commit.

    hf:ORG/NAME@COMMIT[/PATH] --ask once, kept--> files with size and checksum --a host fetches what it reads--> verified

What a commit holds cannot change, so its list and its files are kept in Hugging Face's own cache directory (HF_HOME): a
corpus that was collected is planned again without a hub. Token and messages are those of models (jobs/hub.py).
"""

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from jobs.corpus.schema import DataError
from jobs.hub import COMMIT, explained, hub_token

PREFIX = "hf:"
SOURCE = re.compile(r"hf:(?P<repository>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[^/]+))?(?:/(?P<path>.+))?")
ABOUT_THE_DATA = ("README*", "LICEN[CS]E*", "NOTICE*", "CITATION*", ".gitattributes", "dataset_infos.json", "*.py")
"""At the top of a repository these describe the data set and are none of it; to read one, name it as the PATH."""


@dataclass(frozen=True)
class HubFile:
    """One file of a data set.

    Example:
        HubFile("org/name", "a71c..e0 (40 digits)", "data/train.jsonl", 758, "sha256:9f2c..")
    """

    repository: str
    commit: str
    name: str
    size: int
    fingerprint: str
    """`sha256:` of the bytes of large files, `git:` (the sha1 of a git blob) of small ones: what the hub announces."""

    @property
    def location(self) -> str:
        return f"{PREFIX}{self.repository}@{self.commit}/{self.name}"


def hub_files(source: str) -> list[HubFile]:
    """The files that a source names, by name. Raises DataError: not pinned, no such data set or path, no access, no hub."""
    match = SOURCE.fullmatch(source)
    if match is None:
        raise DataError(f"{source} is not of the form hf:ORG/NAME@COMMIT or hf:ORG/NAME@COMMIT/PATH.")
    repository, revision, path = match["repository"], match["revision"], (match["path"] or "").rstrip("/")
    if revision is None or not COMMIT.fullmatch(revision):
        raise DataError(_pin_it(repository, revision))
    files = _files_of_commit(repository, revision)
    if not path:
        return [file for file in files if not any(fnmatchcase(file.name, pattern) for pattern in ABOUT_THE_DATA)]
    return [file for file in files if _is_named(file.name, path)]


def _is_named(name: str, path: str) -> bool:
    if name == path or name.startswith(f"{path}/"):
        return True
    # As on disk, `*` ends at a slash.
    return name.count("/") == path.count("/") and fnmatchcase(name, path)


def names_one_file(source: str, file: HubFile) -> bool:
    """Whether the source's PATH is a file or a glob: then its suffix does not matter."""
    match = SOURCE.fullmatch(source)
    path = (match["path"] or "").rstrip("/") if match else ""
    return bool(path) and not file.name.startswith(f"{path}/")


def fetched(location: str) -> Path:
    """The local copy of a file, fetched where it is not here yet, its checksum verified. Raises DataError."""
    repository, _, rest = location.removeprefix(PREFIX).partition("@")
    commit, _, name = rest.partition("/")
    file = next(file for file in _files_of_commit(repository, commit) if file.name == name)
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    kept = try_to_load_from_cache(repository, name, revision=commit, repo_type="dataset")
    if not isinstance(kept, str):
        with explained(repository, commit, DataError):
            kept = hf_hub_download(repository, name, revision=commit, repo_type="dataset", token=hub_token())
    path = Path(kept)
    kind, _, expected = file.fingerprint.partition(":")
    found = _checksum(path, kind)
    if found != expected:
        path.resolve().unlink()
        raise DataError(
            f"{location}: the bytes that arrived have {kind} {found[:12]}.., the hub announced {expected[:12]}... Run the same "
            "command again; if it stays, something between here and the hub alters files."
        )
    return path


def _checksum(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        if kind == "sha256":
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha1(f"blob {os.fstat(file.fileno()).st_size}\0".encode())
        while piece := file.read(1 << 20):
            digest.update(piece)
        return digest.hexdigest()


def _files_of_commit(repository: str, commit: str) -> list[HubFile]:
    from huggingface_hub.constants import HF_HOME

    kept = Path(HF_HOME) / "acclimate" / "data_sets" / repository / f"{commit}.json"
    if kept.exists():
        return [HubFile(**values) for values in json.loads(kept.read_bytes())]
    files = sorted(_ask(repository, commit), key=lambda file: file.name)
    kept.parent.mkdir(parents=True, exist_ok=True)
    writing = kept.with_name(f".{kept.name}.{os.getpid()}")
    writing.write_text(json.dumps([asdict(file) for file in files]))
    writing.replace(kept)
    return files


def _ask(repository: str, commit: str) -> list[HubFile]:
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url

    with explained(repository, commit, DataError):
        info = HfApi(token=hub_token()).dataset_info(repository, revision=commit, files_metadata=True)
        files = []
        for sibling in info.siblings or []:
            fingerprint = f"git:{sibling.blob_id}" if sibling.lfs is None else f"sha256:{sibling.lfs.sha256}"
            files.append(HubFile(repository, commit, sibling.rfilename, sibling.size or 0, fingerprint))
        if files:
            # A gated data set is described to everybody and its files are refused.
            get_hf_file_metadata(
                hf_hub_url(repository, files[0].name, repo_type="dataset", revision=commit), token=hub_token()
            )
    return files


def _pin_it(repository: str, revision: str | None) -> str:
    from huggingface_hub import HfApi

    named = f"`{revision}` can move" if revision else "no revision is given"
    try:
        with explained(repository, revision, DataError):
            commit = HfApi(token=hub_token()).dataset_info(repository, revision=revision).sha
    except DataError as error:
        return (
            f"hf:{repository}: {named}; write the commit, 40 hexadecimal digits, after @, so that a corpus stays the same "
            f"tomorrow. (The hub could not be asked which one that is: {error})"
        )
    return f"hf:{repository}: {named}. Pin today's commit:\n    path: hf:{repository}@{commit}"
