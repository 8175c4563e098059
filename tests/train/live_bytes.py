"""How many bytes the tensors of this process hold, counted on the tensors and not on the process."""

import gc
from collections import Counter

import torch


def live_bytes() -> Counter[torch.dtype]:
    """Of all storages that a Python object refers to, by type; views of one storage count once."""
    gc.collect()
    found: dict[int, tuple[torch.dtype, int]] = {}
    for thing in gc.get_objects():
        # Not isinstance: it asks every object for its class, and some warn when they are asked.
        if issubclass(type(thing), torch.Tensor) and thing.device.type != "meta":
            tensor = thing.to_local() if isinstance(thing, torch.distributed.tensor.DTensor) else thing
            storage = tensor.untyped_storage()
            if storage.nbytes():
                found[storage.data_ptr()] = (tensor.dtype, storage.nbytes())
    total = Counter[torch.dtype]()
    for dtype, size in found.values():
        total[dtype] += size
    return total
