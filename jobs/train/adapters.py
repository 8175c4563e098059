"""Low-rank adapters as a property of the model: PEFT injects them, and the engine trains what they add.

    build_on_meta --inject--> frozen weights + lora_A, lora_B (+ magnitudes, + modules trained whole)
    export: adapter/ in PEFT's format, and model/ with the adapters added to the weights, tensor by tensor

PEFT renames what it wraps; `checkpoint_name` gives back the name under which a weight is stored.
"""

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from peft import LoraConfig, TaskType, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from cluster.storage import Store
from configs.errors import UserError
from configs.schema.objectives import Lora

ADAPTER = "default"
PEFT_PREFIX = "base_model.model."
"""What PEFT's files put before every name: the path of the model inside PeftModel."""
ADAPTER_FILE, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
BASE_FILE = "base.json"
"""Beside them: in which form the base was while they were trained, which PEFT's config has no key for."""
LORA_PART = re.compile(rf"^(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_magnitude_vector)\.{ADAPTER}\.weight$")
SCORE_NAME = "score.weight"
"""The head of a reward model: as in transformers' *ForSequenceClassification, which reads what is exported."""
MAGNITUDE = f".lora_magnitude_vector.{ADAPTER}.weight"
"""How DoRA's magnitudes end."""
WRAPPERS = (".base_layer", ".original_module", f".modules_to_save.{ADAPTER}")


HEAD_MODULE = "lm_head"


class AdapterError(UserError, ValueError):
    """The adapters do not fit the model; the message says which key, and how to mend it."""


def peft_config(lora: Lora, tied: bool, base: str = "") -> LoraConfig:
    """PEFT's own config for these settings.

    Args:
        tied: the head is the embedding, so that training one whole trains both.
        base: the model the adapters belong to.
    """
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM, base_model_name_or_path=base, r=lora.rank, lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType] - a whole number by its annotation, any by its code
        target_modules=lora.targets, lora_dropout=lora.dropout, use_rslora=lora.rslora, use_dora=lora.dora,
        modules_to_save=list(lora.train_whole) or None, ensure_weight_tying=tied and bool(lora.train_whole), bias="none",
    )  # fmt: skip


def inject(causal_lm: nn.Module, lora: Lora, tied: bool) -> None:
    """Puts adapters into a model on the meta device; everything else is frozen.

    Raises:
        AdapterError: no module is called as `targets` or `train_whole` say, one is in both, or a target is no linear layer
            of the decoder.
    """
    names = dict(causal_lm.named_modules())
    found = {
        key: {path for name in wanted for path in _paths(key, name, names)}
        for key, wanted in (
            ("targets", [] if isinstance(lora.targets, str) else lora.targets),
            ("train_whole", lora.train_whole),
        )
    }
    if lora.targets == "all-linear":
        found["targets"] = {path for path, module in names.items() if isinstance(module, nn.Linear)} - {HEAD_MODULE}
    for target in sorted(found["targets"]):
        if not isinstance(names[target], nn.Linear):
            raise AdapterError(f"lora.targets: {target} is no linear layer; put it under `train_whole`")
        if target == HEAD_MODULE:
            whole = "embed_tokens, which is also the head," if tied else HEAD_MODULE
            raise AdapterError(f"lora.targets: {target} gets no adapter; put {whole} under `train_whole` to train it")
        if any(f"{target}.".startswith(f"{whole}.") for whole in found["train_whole"]):
            raise AdapterError(
                f"lora: {target} is in both `targets` ({lora.targets}) and `train_whole` ({', '.join(lora.train_whole)}); "
                "leave it out of one, naming the targets one by one"
            )
    inject_adapter_in_model(peft_config(lora, tied), causal_lm, ADAPTER, low_cpu_mem_usage=True)
    for name, parameter in causal_lm.named_parameters():
        parameter.requires_grad_(LORA_PART.match(name) is not None or f".modules_to_save.{ADAPTER}." in name)


def _paths(key: str, name: str, names: Mapping[str, nn.Module]) -> list[str]:
    """The modules that are called `name`. Raises AdapterError where there is none."""
    found = [path for path in names if path == name or path.endswith("." + name)]
    if not found:
        leaves = sorted({path.rpartition(".")[2] for path, module in names.items() if isinstance(module, nn.Linear)})
        raise AdapterError(f"lora.{key}: no module is called {name!r}; linear layers here: {', '.join(leaves)}")
    return found


@contextmanager
def without_dropout(module: nn.Module) -> Iterator[None]:
    """Inside, nothing is dropped: what is measured, compared with or sampled is the whole model."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Dropout)]
    for layer in layers:
        layer.eval()
    try:
        yield
    finally:
        for layer in layers:
            layer.train()


@contextmanager
def without_adapters(module: nn.Module) -> Iterator[None]:
    """Inside, the model computes as if it had none.

    PEFT's own switch, `enable_adapters`, changes requires_grad too, which FSDP reads once, at the first forward pass.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def checkpoint_name(name: str) -> str:
    """Under which name the weight of a parameter is stored: without what PEFT's wrappers add."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def scaling(lora: Lora) -> float:
    """By what B x A is multiplied."""
    return lora.alpha / (math.sqrt(lora.rank) if lora.rslora else lora.rank)


def merged(weight_OI: Tensor, parts: Mapping[str, Tensor], lora: Lora) -> Tensor:
    """A weight with its adapter added, in fp32.

    Args:
        weight_OI: fp32 (out, in), as stored.
        parts: lora_A (R, in), lora_B (out, R) and, with DoRA, lora_magnitude_vector (out,).
    """
    changed_OI = weight_OI + scaling(lora) * (parts["lora_B"].float() @ parts["lora_A"].float())
    if "lora_magnitude_vector" not in parts:
        return changed_OI
    return changed_OI * (parts["lora_magnitude_vector"].float() / changed_OI.norm(dim=1))[:, None]


def peft_name(name: str) -> str | None:
    """The name of a trained tensor in PEFT's file; None for one that is not part of the adapters."""
    found = LORA_PART.match(name)
    if found is not None:
        suffix = "" if found["part"] == "lora_magnitude_vector" else ".weight"
        return f"{PEFT_PREFIX}{found['module']}.{found['part']}{suffix}"
    if f".modules_to_save.{ADAPTER}." in name or name == SCORE_NAME:
        return PEFT_PREFIX + checkpoint_name(name)
    return None


def config_json(lora: Lora, tied: bool, base: str, trained: Collection[str]) -> dict[str, object]:
    """adapter_config.json as PEFT and vLLM read it: `all-linear` is spelt out."""
    config = peft_config(lora, tied, base).to_dict()
    if SCORE_NAME in trained:
        # PEFT then puts them on a *ForSequenceClassification, and looks for its head among them.
        config["task_type"] = TaskType.SEQ_CLS
    modules = (found["module"] for name in trained if (found := LORA_PART.match(name)))
    config["target_modules"] = sorted({module.rpartition(".")[2] for module in modules})
    return json.loads(json.dumps(config, default=sorted))  # sets become lists


def read_adapter_config(adapter: Store) -> Lora:
    """What adapter_config.json says that matters to the weights; raises AdapterError where they are of another kind."""
    if not adapter.exists(ADAPTER_CONFIG):
        raise AdapterError(
            f"{adapter.root} has no {ADAPTER_CONFIG}: is it the `adapter` directory of a stage with `lora`?"
        )
    config = adapter.read_json(ADAPTER_CONFIG)
    if config.get("peft_type") != "LORA":
        raise AdapterError(f"{adapter.root}: adapters of type {config.get('peft_type')} are not merged here, only LORA")
    unknown = [key for key in ("rank_pattern", "alpha_pattern", "lora_bias") if config.get(key)]
    if unknown or config.get("bias", "none") != "none":
        raise AdapterError(f"{adapter.root}: {', '.join(unknown) or 'bias'} in {ADAPTER_CONFIG} is not supported here")
    return Lora(
        rank=config["r"], alpha=config["lora_alpha"], rslora=config.get("use_rslora", False),
        dora=config.get("use_dora", False), train_whole=config.get("modules_to_save") or [],
        base=adapter.read_json(BASE_FILE)["base"] if adapter.exists(BASE_FILE) else "as_stored",
    )  # fmt: skip


def check_same_adapters(adapter: Store, lora: Lora) -> None:
    """Raises AdapterError where adapters cannot be gone on with by these settings."""
    saved = read_adapter_config(adapter)
    for key in ("rank", "alpha", "rslora", "dora", "base"):
        if getattr(saved, key) != getattr(lora, key):
            raise AdapterError(
                f"lora.{key} is {getattr(lora, key)}, the adapters that `start: continue` goes on with have "
                f"{getattr(saved, key)} ({adapter.root}); set it to that, or `start: merge`"
            )


def magnitudes(weight_OI: Tensor) -> Tensor:
    """(out,) what DoRA's magnitudes start at."""
    return torch.linalg.vector_norm(weight_OI.float(), dim=1)
