"""Is this directory a model that can be served? Answered from the files alone, before anything starts.

config.json            architecture and sizes
*.safetensors          weights, each as long as its header says; all shards of an index
tokenizer.json         (or tokenizer.model)
chat template          chat_template.jinja, or in tokenizer_config.json; only where chat is served
"""

import json
import struct
from typing import Any, Literal

from cluster.storage import FileInfo, Store
from configs.errors import UserError

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
INDEX = "model.safetensors.index.json"
LENGTH_BYTES = 8
"""A safetensors file begins with the length of its JSON header as a little-endian u64, then the header, then the data."""
LONGEST_HEADER = 100 * 2**20
"""safetensors' own limit; a longer "header" means that the file is something else."""


class ModelFilesError(UserError):
    """The directory cannot be served; the message says which file is missing or wrong."""


def require_servable(model: Store, interface: Literal["chat", "completions"]) -> None:
    """Raises ModelFilesError."""
    files = {file.name: file for file in model.files()}
    if not files:
        raise ModelFilesError(f"{model.root}: no such model directory (nothing is there)")
    if "config.json" not in files:
        raise ModelFilesError(f"{model.root}: config.json is missing, so this is not a model directory{_nested(files)}")
    config = _json(model, "config.json")
    if not config.get("architectures"):
        raise ModelFilesError(f"{model.root}/config.json names no `architectures`: vLLM cannot know how to run it")
    for name in _weight_files(model, files):
        _require_whole(model, files[name])
    if not any(name in files for name in TOKENIZERS):
        raise ModelFilesError(f"{model.root}: no tokenizer (one of {', '.join(TOKENIZERS)}); export it with the model")
    if interface == "chat" and not has_chat_template(model, files):
        raise ModelFilesError(
            f"{model.root} has no chat template (chat_template.jinja, or in tokenizer_config.json): set `chat_template` "
            "in the model stage, or serve it for completions only with --interface completions"
        )


def has_chat_template(model: Store, files: dict[str, FileInfo]) -> bool:
    """Whether the tokenizer of `model` can render a conversation."""
    if "chat_template.jinja" in files or "chat_template.json" in files:
        return True
    return "tokenizer_config.json" in files and bool(_json(model, "tokenizer_config.json").get("chat_template"))


def _nested(files: dict[str, FileInfo]) -> str:
    below = sorted(name.removesuffix("/config.json") for name in files if name.endswith("/config.json"))
    return f"; did you mean {below[0]!r} below it?" if below else ""


def _weight_files(model: Store, files: dict[str, FileInfo]) -> list[str]:
    if INDEX in files:
        shards = sorted(set(_json(model, INDEX)["weight_map"].values()))
        missing = [name for name in shards if name not in files]
        if missing:
            raise ModelFilesError(f"{model.root}: {INDEX} names files that are missing: {', '.join(missing)}")
        return shards
    weights = [name for name in files if name.endswith(".safetensors") and "/" not in name]
    if not weights:
        others = [name for name in files if name.endswith((".bin", ".pt", ".gguf"))]
        found = f" (found {others[0]}: convert it, other formats are not loaded)" if others else ""
        raise ModelFilesError(f"{model.root}: no *.safetensors weights{found}")
    return sorted(weights)


def _require_whole(model: Store, file: FileInfo) -> None:
    """A cut download passes every check but this one until the engine maps the file."""
    damaged = f"{model.path(file.name)} is damaged: "
    with model.open(file.name) as opened:
        start = opened.read(LENGTH_BYTES)
        if len(start) < LENGTH_BYTES or (length := struct.unpack("<Q", start)[0]) > LONGEST_HEADER:
            raise ModelFilesError(damaged + "it does not begin like a safetensors file")
        try:
            header = json.loads(opened.read(length))
        except ValueError as error:
            raise ModelFilesError(damaged + "its header is not JSON") from error
    end = max((tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"), default=0)
    expected = LENGTH_BYTES + length + end
    if file.size != expected:
        raise ModelFilesError(damaged + f"{file.size:,} bytes, its header asks for {expected:,}; copy it again")


def _json(model: Store, name: str) -> dict[str, Any]:
    try:
        return model.read_json(name)
    except ValueError as error:
        raise ModelFilesError(f"{model.path(name)} is not JSON: {error}") from error
