"""Models from outside -> a model directory in the store, which every node can read.

    local directory | s3:// | hf:ORG/NAME@COMMIT -> resolve_source -> ResolvedModel -> import_model -> output/model/

The fingerprint decides whether a model was imported before: it changes when any file that counts changes.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.artifacts import artifact_around
from cluster.storage import FileInfo, Store
from configs.schema.run import ARTIFACT_PREFIX, ModelStage
from jobs.added_tokens import add_to_tokenizer, extend_weights, write_tokenizer
from jobs.fingerprint import file_sha256
from jobs.model_files import (
    INDEX,
    WEIGHTS_SUFFIX,
    ModelError,
    ModelFacts,
    check_model,
    check_names,
    counting_files,
    needs_remote_code,
)
from jobs.model_hub import PREFIX, HubModel, download, hub_model, pinned_commit
from jobs.rope import scaled_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Progress = Callable[[str, int, int], None]
"""progress(label, done, total)"""

MODEL = "model"
"""Where a model artifact keeps its model directory."""
GIVEN = "given"
"""Where the weights lie during an import that gives them more rows."""


@dataclass(frozen=True)
class ResolvedModel:
    """A source that exists, with everything needed to mirror it.

    Example:
        ResolvedModel(source="models/smollm2", fingerprint="5e1f..", files=(FileInfo("config.json", 758), ...),
                      origin=Store("/data/models/smollm2"))
    """

    source: str
    fingerprint: str
    """local: of names, sizes and contents; s3: of names, sizes and ETags; hub: the commit."""
    files: tuple[FileInfo, ...]
    origin: Store | HubModel

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in self.files)


def resolve_source(source: str) -> ResolvedModel:
    """Finds the files of a source. Reads every byte of a local directory, only names and sizes of the other two.

    `artifact:` sources name something that is in the store already; the pipeline resolves those.
    Raises ModelError: nothing there, something missing, no access, a hub revision that can move.
    """
    assert not source.startswith(ARTIFACT_PREFIX), source
    if source.startswith(PREFIX):
        model = hub_model(source)
        return _resolved(source, model.files, model, lambda files: model.commit)
    if source.startswith("s3://"):
        store = source_directory(source)
        return _resolved(source, store.files(), store, lambda files: _s3_fingerprint(store, files))
    store = source_directory(source)
    return _resolved(source, store.files(), store, lambda files: _local_fingerprint(Path(store.root), files))


def source_fingerprint(source: str) -> str:
    """The fingerprint of `resolve_source`. Asks no hub where the commit is given: it is the fingerprint.

    Raises ModelError.
    """
    return pinned_commit(source) if source.startswith(PREFIX) else resolve_source(source).fingerprint


def source_terms(source: str) -> dict[str, Any]:
    """`terms` of the artifact that a source is a part of: the same files from elsewhere may do something else.

    Raises ModelError, and ArtifactNotFound where it was never finished.
    """
    origin = None if source.startswith(PREFIX) else artifact_around(source_directory(source))
    return {"terms": {name: origin.record.get(name) for name in ("licences", "allowed")}} if origin else {}


def source_directory(source: str) -> Store:
    """Where a source that is no hub's lies. Raises ModelError where there is no such local directory."""
    assert not source.startswith((ARTIFACT_PREFIX, PREFIX)), source
    if source.startswith("s3://"):
        return Store(source.rstrip("/"))
    directory = Path(source).expanduser().absolute()
    if not directory.is_dir():
        raise ModelError(
            f"source: {source}: there is no such directory ({directory}). A source is a directory, s3://BUCKET/PREFIX, "
            "artifact:KEY or hf:ORG/NAME@COMMIT."
        )
    return Store(str(directory))


def import_model(stage: ModelStage, resolved: ResolvedModel, output: Store, progress: Progress) -> ModelFacts:
    """Mirrors the files to `output/model/`, sets the chat template, adds tokens, and checks what arrived.

    Args:
        progress: called with bytes done and in total after every file.

    Raises:
        ModelError: a broken or incomplete model, one that needs code nobody said to trust, or added tokens that it has.
        RopeError: `rope_scaling` does not fit its config.json.
        jobs.corpus.template.TemplateError: a given template whose assistant turns do not end by an end-of-sequence token.
    """
    template = None if stage.chat_template is None else template_text(stage.chat_template)
    wanted = [file for file in resolved.files if stage.trust_remote_code or not file.name.endswith(".py")]
    # Small files first: what can be wrong with them is found before the weights are fetched.
    small = [file for file in wanted if not file.name.endswith(WEIGHTS_SUFFIX)]
    weights = [file for file in wanted if file.name.endswith(WEIGHTS_SUFFIX)]
    small_bytes, total = sum(file.size for file in small), sum(file.size for file in wanted)
    model = output.below(MODEL)
    _copy(resolved.origin, small, model, lambda name, done: progress(name, done, total))
    new_ids = _settle_small_files(stage, model, template)
    given = output.below(GIVEN) if new_ids else model
    _copy(resolved.origin, weights, given, lambda name, done: progress(name, small_bytes + done, total))
    if new_ids:
        if model.exists(INDEX):
            given.write(INDEX, model.read(INDEX))
            model.remove(INDEX)
        extend_weights(given, new_ids, model)
        output.remove(GIVEN)
    progress("copied", total, total)
    return check_model(model)


def template_text(chosen: str) -> str:
    """The Jinja text of a preset or a file; it belongs to the identity of the imported model, as the fingerprint does.

    Raises jobs.corpus.template.TemplateError.
    """
    # Imported here and below: transformers takes seconds to import, and most sources bring their own template.
    from jobs.corpus.template import load_template

    return load_template(chosen, Path.cwd())


def _copy(origin: Store | HubModel, files: list[FileInfo], model: Store, progress: Callable[[str, int], None]) -> None:
    done = 0
    for file in files:
        progress(f"copying {file.name}", done)
        with _local_copy(origin, file.name) as path:
            model.put(path, file.name)
        done += file.size


def _settle_small_files(stage: ModelStage, model: Store, template: str | None) -> list[int]:
    """The ids of the added tokens."""
    require_trust(stage, model)
    if stage.rope_scaling is not None:
        model.write_json("config.json", scaled_config(model.read_json("config.json"), stage.rope_scaling, stage.source))
    new_ids: list[int] = []
    if stage.added_tokens:
        tokenizer = load_tokenizer(model, stage.trust_remote_code)
        new_ids = add_to_tokenizer(tokenizer, stage.added_tokens, stage.source)
        write_tokenizer(tokenizer, model)
    if template is not None:
        _set_template(model, template)
        check_chat_template(model, template, stage.trust_remote_code)
    return new_ids


def require_trust(stage: ModelStage, model: Store) -> None:
    """Raises ModelError where the model brings code that nobody said to trust."""
    if needs_remote_code(model) and not stage.trust_remote_code:
        raise ModelError(
            f"{stage.source}: this model runs only with Python code that comes with it (`auto_map` in its config). Read "
            "that code; if you trust it, set `trust_remote_code: true` in the model stage."
        )


def check_chat_template(
    model: Store, template: str | None, trust_remote_code: bool = False, added_tokens: Sequence[str] = ()
) -> None:
    """Raises TemplateError where `template`, or without one the model's own, cannot be trained with."""
    from jobs.corpus.template import check_template, end_token_ids

    tokenizer = load_tokenizer(model, trust_remote_code, added_tokens)
    if template is not None:
        tokenizer.chat_template = template
    check_template(tokenizer, end_token_ids(model, tokenizer))


def _resolved(
    source: str,
    files: tuple[FileInfo, ...] | list[FileInfo],
    origin: Store | HubModel,
    fingerprint: Callable[[list[FileInfo]], str],
) -> ResolvedModel:
    check_names(source, [file.name for file in files])
    counting = counting_files(files)
    return ResolvedModel(source, fingerprint(counting), tuple(counting), origin)


def _local_fingerprint(directory: Path, files: list[FileInfo]) -> str:
    return _digest([[file.name, file.size, file_sha256(directory / file.name)] for file in files])


def _s3_fingerprint(store: Store, files: list[FileInfo]) -> str:
    return _digest([[file.name, file.size, store.fs.info(store.path(file.name))["ETag"].strip('"')] for file in files])


def _digest(entries: list[list[str | int]]) -> str:
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


@contextmanager
def _local_copy(origin: Store | HubModel, name: str) -> Iterator[Path]:
    """A file of the origin on this machine's disk for the time of the block: scratch holds one file at a time."""
    if isinstance(origin, Store) and not origin.is_s3:
        yield Path(origin.path(name))
        return
    with tempfile.TemporaryDirectory(prefix="acclimate-model-") as scratch:
        if isinstance(origin, HubModel):
            yield download(origin, name, Path(scratch))
        else:
            path = Path(scratch) / name
            origin.get(name, path)
            yield path


def _set_template(model: Store, template: str) -> None:
    """chat_template.jinja becomes the only template: one left in tokenizer_config.json might win in another library."""
    model.write("chat_template.jinja", template.encode())
    model.remove("chat_template.json")
    if model.exists("tokenizer_config.json"):
        config = model.read_json("tokenizer_config.json")
        if config.pop("chat_template", None) is not None:
            model.write_json("tokenizer_config.json", config)


def load_tokenizer(
    model: Store, trust_remote_code: bool = False, added_tokens: Sequence[str] = ()
) -> "PreTrainedTokenizerBase":
    """The tokenizer of a model directory on disk or S3, through a copy of its small files; never from a hub.

    Args:
        added_tokens: which the import of the model will append.

    Raises ModelError where transformers cannot read it, or it has an added token already.
    """
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory(prefix="acclimate-tokenizer-") as scratch:
        for file in counting_files(model.files()):
            if not file.name.endswith(".safetensors"):
                model.get(file.name, Path(scratch) / file.name)
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                scratch, local_files_only=True, trust_remote_code=trust_remote_code
            )
        except Exception as error:  # transformers and tokenizers raise whatever parsing raises
            said = " ".join(str(error).split()).replace(scratch, model.root)[:300]
            raise ModelError(
                f"{model.root}: its tokenizer or config.json cannot be read ({type(error).__name__}: {said}). Copy the "
                "tokenizer files of the model it came from."
            ) from error
    if added_tokens:
        add_to_tokenizer(tokenizer, added_tokens, model.root)
    return tokenizer
