"""Which files make a model directory, and whether they are all there and whole.

    config.json                  architecture and sizes
    model*.safetensors [+index]  weights; every file as long as its header says
    tokenizer.json | .model      with tokenizer_config.json and, where the model talks, a chat template

Pickles are never read: opening one runs whatever code it holds.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from cluster.storage import FileInfo, Store
from configs.errors import UserError

WEIGHTS = "model*.safetensors"
"""Not every *.safetensors: Mistral's repositories carry a second copy of the weights as `consolidated*.safetensors`."""
WEIGHTS_SUFFIX = ".safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
REMOTE_CODE = "*.py"
MODEL_FILES = (
    WEIGHTS,
    INDEX,
    "config.json",
    "generation_config.json",
    *TOKENIZERS,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    REMOTE_CODE,
    "LICEN[CS]E*",
    "NOTICE*",
    "README*",
)
"""What is mirrored and fingerprinted, at the top of the directory only. Optimizer states, other frameworks' weights and
pickles do not count; a text file that may hold a licence does."""

WINDOW_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "seq_length")
"""How families call the longest input in config.json; the last three: GPT-2, older GPTs, BLOOM."""

PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class ModelError(UserError):
    """A model that cannot be used; the message says what is missing and how to mend it."""


@dataclass(frozen=True)
class ModelFacts:
    """What the files say about a model.

    Example:
        ModelFacts(architecture="LlamaForCausalLM", parameters=134_515_008, dtype="bfloat16", vocabulary=49_152, context=2048,
                   eos_token="<|im_end|>", eos_token_ids=(2,), has_chat_template=True, needs_remote_code=False,
                   bytes=269_060_552)
    """

    architecture: str
    parameters: int
    """Stored numbers; tied embeddings are stored, and counted, once."""
    dtype: str
    """The type most of the bytes have, as torch names it: bfloat16, float16, float32."""
    vocabulary: int
    context: int | None
    """Longest input in tokens, None where the config names none."""
    eos_token: str | None
    eos_token_ids: tuple[int, ...]
    """Tokens that end a generation."""
    has_chat_template: bool
    needs_remote_code: bool
    """The model runs only with Python code that lies beside its weights."""
    bytes: int
    """Size of the weight files."""


def counting_files(files: Iterable[FileInfo]) -> list[FileInfo]:
    """Those of a directory's files that belong to the model, in their order."""
    return [file for file in files if _matches(file.name, MODEL_FILES)]


def check_names(where: str, names: Sequence[str]) -> None:
    """Raises ModelError where config, weights or tokenizer are missing; needs the names only, so it costs no download."""
    if not names:
        raise ModelError(f"{where}: there is no model here (no files at all). Check the path.")
    if "config.json" not in names:
        below = sorted(name.removesuffix("/config.json") for name in names if name.endswith("/config.json"))
        hint = f" There is one below {below[0]!r}: did you mean that?" if below else ""
        raise ModelError(f"{where}: config.json is missing, so this is not a model directory.{hint}")
    if not any(_matches(name, (WEIGHTS,)) for name in names):
        pickled = sorted(name for name in names if _matches(name, PICKLED))
        if pickled:
            raise ModelError(
                f"{where}: the weights are pickles ({', '.join(pickled[:3])}), which run code when they are opened. "
                "Only safetensors are read. Where you trust the origin, convert once:\n"
                '    python -c "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; '
                "M.from_pretrained('IN').save_pretrained('OUT'); T.from_pretrained('IN').save_pretrained('OUT')\""
            )
        raise ModelError(f"{where}: no weights ({WEIGHTS}) beside config.json. Was the download or export interrupted?")
    if not any(name in names for name in TOKENIZERS):
        raise ModelError(
            f"{where}: no tokenizer ({', '.join(TOKENIZERS)}). Copy the tokenizer files of the model it came from."
        )


def check_model(directory: Store) -> ModelFacts:
    """Reads the small files and the headers of the weights. Raises ModelError."""
    # Imported here: it needs torch, which takes 2 s to import, and resolving a source for `plan` needs none of it.
    from jobs.train.weights import WeightsError, list_tensors

    files = {file.name: file for file in directory.files()}
    check_names(directory.root, list(files))
    config = _read_json(directory, "config.json")
    if not config.get("architectures"):
        raise ModelError(
            f"{directory.path('config.json')} names no `architectures`: it is unknown how to run the model."
        )
    shards = _weight_files(directory, files)
    try:
        tensors = list_tensors(directory)
    except WeightsError as error:
        raise ModelError(str(error)) from error
    if not tensors:
        raise ModelError(f"{directory.root}: the weight files hold no tensors. Download or copy the model again.")
    bytes_of = Counter[str]()
    for tensor in tensors.values():
        bytes_of[str(tensor.dtype).removeprefix("torch.")] += math.prod(tensor.shape) * tensor.dtype.itemsize
    tokenizer_config = _read_json(directory, "tokenizer_config.json") if "tokenizer_config.json" in files else {}
    text_config = config.get("text_config") or config
    return ModelFacts(
        architecture=config["architectures"][0],
        parameters=sum(math.prod(tensor.shape) for tensor in tensors.values()),
        dtype=bytes_of.most_common(1)[0][0],
        vocabulary=_required(directory, text_config, "vocab_size"),
        context=next((text_config[key] for key in WINDOW_KEYS if text_config.get(key) is not None), None),
        eos_token=_token_text(tokenizer_config.get("eos_token")),
        eos_token_ids=_eos_token_ids(directory, files, text_config),
        has_chat_template=any(name in files for name in ("chat_template.jinja", "chat_template.json"))
        or bool(tokenizer_config.get("chat_template")),
        needs_remote_code=needs_remote_code(directory),
        bytes=sum(files[name].size for name in shards),
    )


def needs_remote_code(directory: Store) -> bool:
    """Whether config or tokenizer name Python classes of the model's own (`auto_map`)."""
    names = [name for name in ("config.json", "tokenizer_config.json") if directory.exists(name)]
    return any("auto_map" in _read_json(directory, name) for name in names)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return "/" not in name and any(fnmatchcase(name, pattern) for pattern in patterns)


def _weight_files(directory: Store, files: dict[str, FileInfo]) -> list[str]:
    if INDEX not in files:
        return sorted(name for name in files if _matches(name, (WEIGHTS,)))
    index = _read_json(directory, INDEX)
    if not isinstance(index.get("weight_map"), dict):
        raise ModelError(f"{directory.path(INDEX)} has no `weight_map`. Download or copy it again.")
    shards = sorted(set(index["weight_map"].values()))
    missing = [name for name in shards if name not in files]
    if missing:
        raise ModelError(
            f"{directory.root}: {len(missing)} of {len(shards)} weight files of {INDEX} are missing "
            f"({', '.join(missing[:3])}). Download or copy them again."
        )
    return shards


def _eos_token_ids(directory: Store, files: dict[str, FileInfo], text_config: dict[str, Any]) -> tuple[int, ...]:
    """generation_config.json decides, as in transformers' and vLLM's generation; else config.json."""
    generation = _read_json(directory, "generation_config.json") if "generation_config.json" in files else {}
    ids = generation.get("eos_token_id", text_config.get("eos_token_id"))
    if ids is None:
        return ()
    return tuple(ids) if isinstance(ids, list) else (ids,)


def _token_text(token: str | dict[str, Any] | None) -> str | None:
    """tokenizer_config.json writes a token as its text, older ones as a description with `content`."""
    return token["content"] if isinstance(token, dict) else token


def _required(directory: Store, config: dict[str, Any], key: str) -> Any:
    if key not in config:
        raise ModelError(f"{directory.path('config.json')} has no `{key}`.")
    return config[key]


def _read_json(directory: Store, name: str) -> dict[str, Any]:
    try:
        values = directory.read_json(name)
    except ValueError as error:
        raise ModelError(f"{directory.path(name)} is not JSON ({error}). Download or copy it again.") from error
    if not isinstance(values, dict):
        raise ModelError(f"{directory.path(name)} is a JSON {type(values).__name__}, not an object. Download it again.")
    return values
