"""Adapters -> files: alone in PEFT's format, or added to the weights they belong to.

    base *.safetensors --tensor by tensor, fp32--> + scaling x B A --stored type--> model directory

At most one tensor of the base is in memory.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cluster.storage import Store
from configs.schema.objectives import Lora
from jobs.train.adapters import (
    ADAPTER_CONFIG,
    ADAPTER_FILE,
    BASE_FILE,
    LORA_PART,
    PEFT_PREFIX,
    AdapterError,
    checkpoint_name,
    config_json,
    merged,
    peft_name,
    read_adapter_config,
)
from jobs.train.export import copy_companions, is_first_rank, write_tensors
from jobs.train.nf4 import rounded
from jobs.train.weights import EMBEDDING, HEAD, StoredTensor, list_tensors, read_rows

Named = TypeVar("Named")

Named = TypeVar("Named")

DECODER_LAYERS = "model.layers."
"""Where the linear layers are that a 4-bit base has in 4 bits: every matrix there is one."""


def write_adapters(trained: Mapping[str, Tensor], lora: Lora, base: Store, output: Store) -> None:
    """adapter_model.safetensors and adapter_config.json, as PeftModel.from_pretrained reads them; on the first rank.

    Args:
        trained: on the first rank, by parameter name.
    """
    if not is_first_rank():
        return
    tensors = {peft_name(name): tensor.contiguous() for name, tensor in trained.items()}
    assert None not in tensors, sorted(trained)
    tied = HEAD not in list_tensors(base)
    embedding = tensors.get(PEFT_PREFIX + EMBEDDING)
    if tied and embedding is not None:
        tensors[PEFT_PREFIX + HEAD] = embedding.clone()  # PEFT keeps a tied head beside the embedding
    with tempfile.TemporaryDirectory() as scratch:
        local = Path(scratch, ADAPTER_FILE)
        save_file({str(name): tensor for name, tensor in tensors.items()}, local, metadata={"format": "pt"})
        output.put(local, ADAPTER_FILE)
    output.write_json(ADAPTER_CONFIG, config_json(lora, tied, base.root, trained))
    output.write_json(BASE_FILE, {"base": lora.base})


def read_adapters(adapter: Store) -> tuple[dict[str, Tensor], Lora]:
    """Adapters in PEFT's format, by the engine's names. Raises AdapterError where they are of a kind that is not merged here."""
    lora = read_adapter_config(adapter)
    with tempfile.TemporaryDirectory() as scratch:
        local = Path(scratch, ADAPTER_FILE)
        adapter.get(ADAPTER_FILE, local)
        tensors = load_file(local)
    return {_engine_name(name): tensor for name, tensor in tensors.items()}, lora


def export_merged(trained: Mapping[str, Tensor], lora: Lora, base: Store, output: Store) -> None:
    """A model directory with the adapters added, in the types of the base; on the first rank. Raises AdapterError.

    Of a base in 4 bits it is the dequantised one: the adapters have learnt to make up for its rounding.
    """
    if not is_first_rank():
        return
    stored = list_tensors(base)
    parts, replaced = parts_by_weight(trained)
    if HEAD not in stored:
        replaced.pop(HEAD, None)  # the embedding's copy in PEFT's files
    unknown = sorted({*parts} - {*stored})
    if unknown:
        raise AdapterError(f"{base.root} has no {unknown[0]}, which the adapters belong to: is it another base model?")
    for name, own in parts.items():
        shape = (own["lora_B"].shape[0], own["lora_A"].shape[1])
        if stored[name].shape != shape:
            raise AdapterError(
                f"{name} is {list(stored[name].shape)} in {base.root}, its adapter is for {list(shape)}: is it another base "
                "model?"
            )
    places = {name: (place.shape, place.dtype) for name, place in stored.items()}
    places |= {name: (tuple(whole.shape), whole.dtype) for name, whole in replaced.items() if name not in stored}

    def tensor(name: str) -> Tensor:
        if name in replaced:
            return replaced[name].to(places[name][1])
        weight = _read(base, stored[name])
        if lora.base == "nf4" and name.startswith(DECODER_LAYERS) and weight.dim() == 2:
            weight = rounded(weight)
        return (merged(weight, parts[name], lora) if name in parts else weight).to(places[name][1])

    write_tensors(places, tensor, output)
    copy_companions(base, output)


def parts_by_weight(trained: Mapping[str, Named]) -> tuple[dict[str, dict[str, Named]], dict[str, Named]]:
    """(parts of the adapters by the stored name of their weight, what is trained whole by stored name).

    Args:
        trained: anything by parameter name.
    """
    parts: dict[str, dict[str, Named]] = {}
    replaced: dict[str, Named] = {}
    for name, value in trained.items():
        found = LORA_PART.match(name)
        if found is None:
            replaced[checkpoint_name(name)] = value
        else:
            parts.setdefault(f"{checkpoint_name(found['module'])}.weight", {})[found["part"]] = value
    return parts, replaced


def write_reward_config(output: Store) -> None:
    """Makes config.json name the class that reads the scoring head; on the first rank."""
    if not is_first_rank():
        return
    config = output.read_json("config.json")
    config["architectures"] = [
        name.replace("ForCausalLM", "ForSequenceClassification") for name in config.get("architectures") or []
    ]
    config["id2label"], config["label2id"] = {"0": "LABEL_0"}, {"LABEL_0": 0}
    output.write_json("config.json", config)


def _read(base: Store, stored: StoredTensor) -> Tensor:
    whole = torch.empty(stored.shape, dtype=torch.float32)
    read_rows(base, stored, 0, whole)
    return whole


def _engine_name(name: str) -> str:
    """The inverse of adapters.peft_name."""
    path = name.removeprefix(PEFT_PREFIX)
    for part in ("lora_A", "lora_B"):
        path = path.replace(f".{part}.weight", f".{part}.default.weight")
    if path.endswith(".lora_magnitude_vector"):
        path += ".default.weight"
    return path
