"""Faster kernels for the layers of a model, where a config asks for them. Attention and head are the engine's own either way."""

from importlib.util import find_spec
from typing import Literal

import torch

from configs.errors import UserError
from jobs.train.model import PackedModel

Kernels = Literal["torch", "liger"]
"""Whose norms, gated MLPs and rotary angles."""


class KernelsMissing(UserError):
    """What the config asks for cannot run here; the message says how to mend it."""


def use_kernels(module: PackedModel, device: torch.device, kernels: Kernels, compiled: bool) -> None:
    """What a config asks for, before the model is sharded. Raises KernelsMissing."""
    if kernels == "liger":
        use_liger(module, device)
    if compiled:
        use_compiled_layers(module, device)


def use_compiled_layers(module: PackedModel, device: torch.device) -> None:
    """torch.compile for the norms and MLPs of each layer. Not run yet: no GPU was at hand.

    Attention stays as it is: it is called with the lengths of a row's texts, and every new row would be compiled anew. The
    number of tokens differs from batch to batch, so shapes are dynamic.

    Raises:
        KernelsMissing: no GPU.
    """
    if device.type != "cuda":
        raise KernelsMissing("compile: it is for GPUs only, and this rank has none; set compile: false")
    for layer in module.layers:
        for name, part in layer.named_children():
            if name != "self_attn":
                part.compile(dynamic=True)


def use_liger(module: PackedModel, device: torch.device) -> None:
    """Puts Liger's kernels into the decoder, by transformers' own switch. Not run yet: no GPU was at hand.

    Raises:
        KernelsMissing: no GPU, no package, or no kernels for this family.
    """
    if device.type != "cuda":
        raise KernelsMissing("kernels: liger: its kernels run on GPUs only, and this rank has none; set kernels: torch")
    if find_spec("liger_kernel") is None:
        raise KernelsMissing("kernels: liger: the package is missing; pip install liger-kernel, or set kernels: torch")
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN  # pyright: ignore[reportMissingImports]
    from transformers.integrations.liger import apply_liger_kernel

    family = module.model.config.model_type
    if family not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise KernelsMissing(f"kernels: liger: it has none for model_type {family}; set kernels: torch")
    # The head's losses are not used here: log-probabilities are the engine's own.
    without_head = {"cross_entropy": False, "fused_linear_cross_entropy": False}
    apply_liger_kernel(module.model, {"rope": True, "rms_norm": True, "swiglu": True, **without_head})
