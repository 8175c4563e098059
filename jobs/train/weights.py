"""Safetensors, read by ranges: a rank takes the rows it owns and nothing else.

    Store --headers--> list_tensors -> check_tensors -> read_rows (pieces of 8 MiB, straight into the fp32 rows)

No memory map: mapped pages count as the process's memory, and S3 has none. The format (huggingface.co/docs/safetensors):
8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, the tensors in C order.
"""

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cluster.storage import Store
from configs.errors import UserError

PIECE_BYTES = 8 << 20
"""8 MiB in one read: far above a request's latency at S3 speeds, and small beside the rows of any model worth sharding."""
LONGEST_HEADER_BYTES = 100 << 20
"""The limit of the reference implementation; a longer one means that the file is something else."""

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""Safetensors' names of the types that weights are trained from."""

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
"""Their names in every model that is trained here; a tied head is not stored."""

INDEX = "model.safetensors.index.json"
PICKLES = re.compile(r".*\.(bin|pt|pth)")


class WeightsError(UserError, ValueError):
    """The weights of a model directory cannot be used; the message says which tensor or file, and how to mend it."""


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies."""

    file: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    """Of its first byte in the file."""


def list_tensors(
    store: Store, types: Mapping[str, torch.dtype] = DTYPES, only: Collection[str] | None = None
) -> dict[str, StoredTensor]:
    """Every tensor of a directory's weights, from the headers of their files.

    The index names the files; without one they are `model*.safetensors`, and where there are none of these all
    *.safetensors. Mistral's directories hold the same weights a second time, as consolidated*.safetensors.

    Args:
        types: which may be there, by safetensors' names.
        only: the files to read, where the caller knows them.

    Raises:
        WeightsError: no safetensors, a pickle instead, or a file that is cut off or not safetensors.
    """
    sizes = {info.name: info.size for info in store.files() if "/" not in info.name}
    files = [name for name in sizes if name.endswith(".safetensors")]
    if not files:
        pickles = sorted(name for name in sizes if PICKLES.fullmatch(name))
        if pickles:
            raise WeightsError(
                f"{store.root} holds {pickles[0]}, a pickle, which can run code when it is read. Convert it once where you "
                "trust it: AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW_DIR)"
            )
        raise WeightsError(f"{store.root} holds no *.safetensors file")
    tensors: dict[str, StoredTensor] = {}
    for file in _of_the_model(store, files, set(sizes)) if only is None else sorted(only):
        for name, tensor in _read_header(store, file, sizes[file], types).items():
            if name in tensors:
                raise WeightsError(
                    f"{store.root}: {name} is in {tensors[name].file} and in {file}; remove one of the two"
                )
            tensors[name] = tensor
    return tensors


def check_tensors(
    wanted: Mapping[str, tuple[int, ...]], stored: Mapping[str, StoredTensor], ignorable: Iterable[str], root: str
) -> None:
    """Compares names and shapes before anything is allocated.

    Args:
        wanted: shapes by parameter name.
        ignorable: patterns of stored tensors that the model does not need (a tied head, old rotary buffers).

    Raises:
        WeightsError: tensors are missing, left over or of another shape.
    """
    missing = sorted(set(wanted) - set(stored))
    patterns = [re.compile(pattern) for pattern in ignorable]
    left_over = sorted(
        name for name in set(stored) - set(wanted) if not any(pattern.search(name) for pattern in patterns)
    )
    problems = [f"missing: {_some(missing)}"] if missing else []
    problems += [f"not part of the model: {_some(left_over)}"] if left_over else []
    problems += [
        f"{name} is {list(stored[name].shape)}, config.json makes it {list(shape)}"
        for name, shape in wanted.items()
        if name in stored and stored[name].shape != shape
    ]
    if problems:
        raise WeightsError(f"{root}: the weights do not fit config.json; {'; '.join(problems[:4])}")


def read_rows(store: Store, tensor: StoredTensor, first_row: int, into: Tensor) -> None:
    """Fills the contiguous `into` (rows, ...) with rows from `first_row` on, cast to its type, piece by piece.

    Raises:
        WeightsError: the file is shorter than its header says.
    """
    assert into.is_contiguous(), into.stride()
    width = math.prod(tensor.shape[1:])
    size = tensor.dtype.itemsize
    start = tensor.offset + first_row * width * size
    flat = into.view(-1)
    for first in range(0, flat.numel(), PIECE_BYTES // size):
        piece = flat[first : first + PIECE_BYTES // size]
        data = _read_range(store, tensor.file, start + first * size, piece.numel() * size)
        piece.copy_(torch.frombuffer(data, dtype=tensor.dtype))


def _of_the_model(store: Store, files: list[str], present: set[str]) -> list[str]:
    if INDEX not in present:
        return [file for file in files if file.startswith("model")] or files
    try:
        named = sorted(set(store.read_json(INDEX)["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{store.path(INDEX)} is no index of weights ({error!r}); fetch it again") from error
    missing = [file for file in named if file not in present]
    if missing:
        raise WeightsError(f"{store.root}: {INDEX} names {_some(missing)}, which is not there; fetch it again")
    return named


def _read_header(store: Store, file: str, file_size: int, types: Mapping[str, torch.dtype]) -> dict[str, StoredTensor]:
    try:
        length = int.from_bytes(_read_range(store, file, 0, 8), "little")
        if length > LONGEST_HEADER_BYTES:
            raise WeightsError(f"{store.path(file)} is not a safetensors file; fetch it again")
        entries = json.loads(bytes(_read_range(store, file, 8, length)))
    except WeightsError:
        raise
    except ValueError as error:
        raise WeightsError(
            f"{store.path(file)} is not a safetensors file, or cut off ({error}); fetch it again"
        ) from error
    if not isinstance(entries, dict):
        raise WeightsError(f"{store.path(file)} is not a safetensors file; fetch it again")
    entries.pop("__metadata__", None)
    tensors: dict[str, StoredTensor] = {}
    for name, entry in entries.items():
        if not isinstance(entry, dict) or {"dtype", "shape", "data_offsets"} - set(entry):
            raise WeightsError(
                f"{store.path(file)}: its header does not say where {name} lies (dtype, shape, data_offsets); fetch it again"
            )
        if entry["dtype"] not in types:
            raise WeightsError(
                f"{store.path(file)}: {name} is of type {entry['dtype']}; only {', '.join(types)} are read. "
                "Convert the model to bf16 first."
            )
        begin, end = entry["data_offsets"]
        stored = StoredTensor(file, types[entry["dtype"]], tuple(entry["shape"]), 8 + length + begin)
        if end - begin != math.prod(stored.shape) * stored.dtype.itemsize or 8 + length + end > file_size:
            raise WeightsError(
                f"{store.path(file)}: {name} should end at byte {8 + length + end}, the file has {file_size}; fetch it again"
            )
        tensors[name] = stored
    return tensors


def _read_range(store: Store, file: str, start: int, length: int) -> bytearray:
    data = bytearray(store.read_range(start, length, file))
    if len(data) != length:
        raise WeightsError(f"{store.path(file)} ends {length - len(data)} bytes too early; fetch it again")
    return data


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
