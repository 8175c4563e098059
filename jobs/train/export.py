"""A sharded model -> a Hugging Face model directory, one tensor at a time.

    every rank: own rows, cast to the stored type --gather--> rank 0: file of at most 4 GiB in scratch --put--> Store

At most one whole tensor is in memory; scratch holds one file.
"""

import json
import math
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from cluster import kill_points
from cluster.storage import Store
from jobs.train.fsdp import LocalRows, ShardedModel, device_of
from jobs.train.initial import NewTensor
from jobs.train.one_rank import WholeModel, WholeRows
from jobs.train.weights import DTYPES, StoredTensor

FILE_BYTES = 4 << 30
"""4 GiB: one S3 part upload stays quick to repeat, and scratch space stays small."""

COMPANIONS = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|processor_config)\.json"
    r"|merges\.txt|vocab\.txt|.*\.model|.*\.jinja|.*\.py|LICENSE.*|NOTICE.*"
)
"""What belongs to a model beside its weights: config, tokenizer, template, code and licence. Not its artifact record."""

TYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


Places = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and type by tensor name."""


def export_model(
    sharded: ShardedModel | WholeModel,
    stored: Mapping[str, StoredTensor | NewTensor],
    source: Store,
    output: Store,
) -> None:
    """Writes weights in the types they were `stored` in, and copies the companions of `source`; all ranks call it."""
    places = {name: (rows.full_shape, stored[name].dtype) for name, rows in sharded.rows.items()}
    write_tensors(places, lambda name: gather_whole(sharded, sharded.rows[name], stored[name].dtype), output)
    kill_points.reach("inside_export")
    if is_first_rank():
        copy_companions(source, output)


def write_tensors(places: Places, gather: Callable[[str], Tensor | None], output: Store) -> None:
    """Safetensors of at most FILE_BYTES, and an index where there are several; one tensor in memory at a time.

    Args:
        gather: called on all ranks for every name in order; gives the tensor, on the CPU, on the first rank.
    """
    files = plan_files(places)
    for file, names in files.items():
        if is_first_rank():
            with tempfile.TemporaryDirectory() as scratch:
                local = Path(scratch, file)
                with local.open("wb") as opened:
                    opened.write(_header({name: places[name] for name in names}))
                    for name in names:
                        whole = gather(name)
                        assert whole is not None
                        opened.write(cast(Any, whole.contiguous().view(torch.uint8).numpy().reshape(-1)))
                output.put(local, file)
        else:
            for name in names:
                gather(name)
    if is_first_rank() and len(files) > 1:
        output.write_json("model.safetensors.index.json", _index(files, places))


def gather_whole(sharded: ShardedModel | WholeModel, rows: LocalRows | WholeRows, dtype: torch.dtype) -> Tensor | None:
    """The whole tensor on rank 0, on the CPU; None elsewhere. All ranks call it, the replica of rank 0 takes part.

    Args:
        dtype: cast to before it travels. Where rank 0 has it whole in that type already, it is the trained tensor itself.
    """
    shard_mesh = sharded.mesh["shard"]
    if sharded.mesh["replicate"].get_local_rank() != 0:
        return None
    own = rows.values.to(device_of(sharded.mesh), dtype)
    shards = shard_mesh.size()
    if shards == 1:
        return own.cpu()
    most = -(-rows.full_shape[0] // shards)
    padded = own.new_zeros((most, *rows.full_shape[1:]))
    padded[: rows.rows] = own
    # As bytes: not every backend gathers every type.
    mine = padded.view(torch.uint8)
    parts = [torch.empty_like(mine) for _ in range(shards)] if is_first_rank() else None
    dist.gather(mine, parts, group=shard_mesh.get_group(), group_dst=0)
    if parts is None:
        return None
    return torch.cat(parts).view(dtype)[: rows.full_shape[0]].cpu()


def gather_on_first_rank(
    sharded: ShardedModel | WholeModel, chosen: Mapping[str, LocalRows | WholeRows]
) -> dict[str, Tensor]:
    """Some tensors whole, in the type they are trained in, on the CPU of the first rank; nothing elsewhere."""
    whole = {name: gather_whole(sharded, rows, rows.values.dtype) for name, rows in chosen.items()}
    return {name: tensor for name, tensor in whole.items() if tensor is not None}


def copy_companions(source: Store, output: Store) -> None:
    """What belongs to a model beside its weights."""
    for name in source.names():
        if COMPANIONS.fullmatch(name):
            output.write(name, source.read(name))


def plan_files(tensors: Places, most: int = FILE_BYTES) -> dict[str, list[str]]:
    """File name -> tensor names: in order, a new file where the next tensor would pass `most` bytes."""
    groups: list[list[str]] = [[]]
    size = 0
    for name, (shape, dtype) in tensors.items():
        bytes_ = math.prod(shape) * dtype.itemsize
        if groups[-1] and size + bytes_ > most:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += bytes_
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {f"model-{number:05}-of-{len(groups):05}.safetensors": names for number, names in enumerate(groups, 1)}


def is_first_rank() -> bool:
    """Which writes; alone where there is no group."""
    return not dist.is_initialized() or dist.get_rank() == 0


def _header(tensors: Places) -> bytes:
    """Length and JSON header of a safetensors file, padded to 8 bytes so that the tensors are aligned."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, (shape, dtype) in tensors.items():
        end = begin + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": TYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


def _index(files: Mapping[str, list[str]], places: Places) -> dict[str, object]:
    total = sum(math.prod(shape) * dtype.itemsize for shape, dtype in places.values())
    return {
        "metadata": {"total_size": total},
        "weight_map": {name: file for file, names in files.items() for name in names},
    }
