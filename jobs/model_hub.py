"""Models on a hub (HF_ENDPOINT), pinned to a commit.

hf:ORG/NAME@COMMIT -> hub_model -> HubModel (files, sizes, sha256) -> download, one file at a time
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.storage import FileInfo
from jobs.hub import COMMIT, explained, hub_token
from jobs.model_files import ModelError

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

PREFIX = "hf:"
SOURCE = re.compile(r"hf:(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>.+))?")


@dataclass(frozen=True)
class HubModel:
    """The files of one commit.

    Example:
        HubModel("org/name", "a71c..e0 (40 digits)", (FileInfo("config.json", 758),), {"model.safetensors": "9f2c.."})
    """

    repository: str
    commit: str
    files: tuple[FileInfo, ...]
    sha256: dict[str, str]
    """Of the large files; the hub names no sha256 for small ones."""


def pinned_commit(source: str) -> str:
    """The commit that a source names, without asking the hub. Raises ModelError where it names none."""
    match = SOURCE.fullmatch(source)
    if match is None:
        raise ModelError(f"source: {source} is not of the form hf:ORG/NAME@COMMIT.")
    repository, revision = match["repository"], match["revision"]
    if revision is None or not COMMIT.fullmatch(revision):
        raise ModelError(_pin_it(repository, revision))
    return revision


def hub_model(source: str) -> HubModel:
    """Asks the hub for the files of a pinned commit.

    Raises:
        ModelError: no such model, no access, no connection; or a revision that is missing or can move (a branch, a tag),
            with the commit to write instead where the hub tells it.
    """
    revision = pinned_commit(source)
    repository = source.removeprefix(PREFIX).partition("@")[0]
    info = _ask(repository, revision)
    files, sha256 = [], {}
    for sibling in info.siblings or []:
        files.append(FileInfo(sibling.rfilename, sibling.size or 0))
        if sibling.lfs is not None:
            sha256[sibling.rfilename] = sibling.lfs.sha256
    if any(file.name == "config.json" for file in files):
        _require_access(repository, revision)
    return HubModel(repository, revision, tuple(files), sha256)


def download(model: HubModel, name: str, into: Path) -> Path:
    """One file of the model, its size and (where the hub names it) sha256 verified. A cut download is taken up again."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    with explained(model.repository, model.commit, ModelError):
        path = Path(hf_hub_download(model.repository, name, revision=model.commit, local_dir=into, token=hub_token()))
    expected = model.sha256.get(name)
    if expected is not None:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected:
            path.unlink()
            raise ModelError(
                f"{model.repository}/{name}: the bytes that arrived have sha256 {found[:12]}.., the hub announced "
                f"{expected[:12]}... Run the same command again; if it stays, something between here and the hub alters files."
            )
    return path


def _pin_it(repository: str, revision: str | None) -> str:
    named = f"`{revision}` can move" if revision else "no revision is given"
    try:
        commit = _ask(repository, revision).sha
    except ModelError as error:
        return (
            f"source: hf:{repository}: {named}; write the commit, 40 hexadecimal digits, after @, so that a run stays "
            f"the same tomorrow. (The hub could not be asked which one that is: {error})"
        )
    return f"source: hf:{repository}: {named}. Pin today's commit:\n    source: hf:{repository}@{commit}"


def _ask(repository: str, revision: str | None) -> "ModelInfo":
    from huggingface_hub import HfApi

    with explained(repository, revision, ModelError):
        return HfApi(token=hub_token()).model_info(repository, revision=revision, files_metadata=True)


def _require_access(repository: str, revision: str) -> None:
    """A gated model is described to everybody and its files are refused: asked here, before anything starts."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    with explained(repository, revision, ModelError):
        get_hf_file_metadata(hf_hub_url(repository, "config.json", revision=revision), token=hub_token())
