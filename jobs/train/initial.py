"""What every parameter starts from: the model directory, or nothing.

parameter names --where_from--> StoredTensor | NewTensor --set_initial--> the rows of this rank
                 --trained_before--> adapters that are gone on with --set_trained_before--> the same rows
"""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cluster.storage import Store
from configs.schema.objectives import Lora
from jobs.train.adapters import (
    LORA_PART,
    MAGNITUDE,
    PEFT_PREFIX,
    SCORE_NAME,
    AdapterError,
    check_same_adapters,
    checkpoint_name,
    magnitudes,
    peft_name,
)
from jobs.train.fsdp import LocalRows
from jobs.train.model import Head
from jobs.train.nf4 import nf4_layers
from jobs.train.one_rank import WholeRows
from jobs.train.weights import EMBEDDING, HEAD, StoredTensor, check_tensors, list_tensors, read_rows

ALWAYS_IGNORABLE = (r"rotary_emb\.inv_freq$",)
"""Buffers that old checkpoints carry; they are computed from the config."""


@dataclass(frozen=True)
class NewTensor:
    """A tensor that no file holds: drawn from the run's seed and its own name, the same on any number of ranks."""

    name: str
    shape: tuple[int, ...]
    standard_deviation: float
    """Of a normal distribution around 0; 0 gives zeros."""
    dtype: torch.dtype = torch.float32
    """What it is exported in."""

    def rows(self, seed: int, first_row: int, count: int) -> Tensor:
        """(count, ...) in fp32."""
        digest = hashlib.sha256(f"{seed} {self.name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        whole = torch.randn(self.shape, generator=generator) * self.standard_deviation
        return whole[first_row : first_row + count]


def where_from(
    model: Store, shapes: Mapping[str, tuple[int, ...]], head: Head = "logprobs"
) -> dict[str, StoredTensor | NewTensor]:
    """Where the values of every parameter come from. Raises WeightsError where the directory does not fit.

    Args:
        head: what the model gives; it decides what a new head starts from. That of values is always new.
    """
    on_disk = list_tensors(model)
    new = {name: _adapter_start(name, shape) for name, shape in shapes.items() if LORA_PART.match(name)}
    if SCORE_NAME in shapes and (head == "values" or SCORE_NAME not in on_disk):
        # As in "Learning to summarize" (Stiennon et al. 2020): scores of about unit size at the start, and values of 0, so
        # that the first advantages are the rewards and no noise of a head that knows nothing yet. A reward model's head knows
        # nothing either but at an answer's end: inside of SmolLM2's answers it gave 3.7 where scores were -0.1.
        deviation = 0.0 if head == "values" else (shapes[SCORE_NAME][1] + 1) ** -0.5
        new[SCORE_NAME] = NewTensor(SCORE_NAME, shapes[SCORE_NAME], deviation)
    wanted = {checkpoint_name(name): shape for name, shape in shapes.items() if name not in new}
    unread = {"lm_head.weight"} | ({SCORE_NAME} & new.keys())
    ignorable = (*ALWAYS_IGNORABLE, *(f"^{re.escape(name)}$" for name in sorted(unread - wanted.keys())))
    check_tensors(wanted, on_disk, ignorable, model.root)
    return {name: new[name] if name in new else on_disk[checkpoint_name(name)] for name in shapes}


def set_initial(
    rows: Mapping[str, LocalRows | WholeRows], places: Mapping[str, StoredTensor | NewTensor], model: Store, seed: int
) -> None:
    """Reads or draws this rank's rows of every parameter, and only them."""
    for name, own in rows.items():
        place = places[name]
        if isinstance(place, NewTensor):
            own.values.copy_(place.rows(seed, own.first_row, own.rows))
        else:
            read_rows(model, place, own.first_row, own.values)
    for name, own in rows.items():
        if name.endswith(MAGNITUDE):  # cut like the rows of its weight, so each rank has what it needs
            own.values.copy_(magnitudes(rows[name.removesuffix(MAGNITUDE) + ".base_layer.weight"].values))


def set_quantised(
    module: nn.Module, places: Mapping[str, StoredTensor | NewTensor], model: Store, device: torch.device
) -> None:
    """Reads and quantises every weight of a 4-bit base, whole on every rank; one in fp32 is in memory at a time."""
    for name, layer in nf4_layers(module).items():
        place = places[name]
        assert isinstance(place, StoredTensor), name
        whole_OI = torch.empty(layer.shape, dtype=torch.float32)
        read_rows(model, place, 0, whole_OI)
        layer.set_weight(whole_OI.to(device))


def trained_before(adapter: Store, lora: Lora, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, StoredTensor]:
    """Where finished adapters lie, by parameter name.

    Args:
        lora: of the stage that goes on with them.
        shapes: of what it trains. The head of a reward model may be new.

    Raises:
        AdapterError: the adapters are of another kind, rank or scale, or on other modules.
    """
    check_same_adapters(adapter, lora)
    on_disk = list_tensors(adapter)
    tied_copy = {f"{PEFT_PREFIX}{HEAD}"} if f"{PEFT_PREFIX}{EMBEDDING}" in on_disk else set()
    places = {name: on_disk.get(str(peft_name(name))) for name in shapes}
    found = {name: place for name, place in places.items() if place is not None}
    missing = sorted({*shapes} - {*found, SCORE_NAME})
    left_over = sorted({*on_disk} - {str(peft_name(name)) for name in shapes} - tied_copy)
    if missing or left_over:
        what = f"{missing[0]} is not in them" if missing else f"{left_over[0]} would be dropped"
        raise AdapterError(
            f"lora.start: the adapters of {adapter.root} are on other modules ({what}); set lora.targets and "
            "lora.train_whole as they were, or `start: merge`"
        )
    for name, place in found.items():
        if place.shape != shapes[name]:
            raise AdapterError(f"lora.start: {name} is {list(place.shape)} in {adapter.root}, not {list(shapes[name])}")
    return found


def set_trained_before(
    rows: Mapping[str, LocalRows | WholeRows], places: Mapping[str, StoredTensor], adapter: Store
) -> None:
    """Reads this rank's rows of finished adapters."""
    for name, place in places.items():
        read_rows(adapter, place, rows[name].first_row, rows[name].values)


def _adapter_start(name: str, shape: tuple[int, ...]) -> NewTensor:
    """A as wide as PEFT's Kaiming draw with a = sqrt(5), uniform in +-1/sqrt(fan_in); the rest 0, so that nothing changes."""
    part = LORA_PART.match(name)
    assert part is not None, name
    return NewTensor(name, shape, 1 / math.sqrt(3 * shape[1]) if part["part"] == "lora_A" else 0.0)
