"""A Hugging Face decoder behind the engine's head contract: packed batch in, log-probabilities out, no logits.

    config.json --read_config, check_config--> build_on_meta -> PackedModel (no memory) -> fsdp.shard_model -> weights

Parameter names are those of the checkpoint. A head tied to the embedding is no parameter of its own.
"""

import re
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from cluster.storage import Store
from configs.schema.objectives import Lora
from jobs.train.adapters import inject
from jobs.train.attention import ATTENTION_NAME, UnsupportedModel, register
from jobs.train.batch import PackedBatch
from jobs.train.head import token_entropy, token_logprobs

CONFIG_FILES = re.compile(r"config\.json|.*\.py")
"""What transformers needs to build a model: its config, and its code where that travels with it."""

REFUSED_UNLESS_ABSENT = {
    "quantization_config": "quantised weights are not trained here; export the model in bf16 first",
    "sliding_window": "if no segment is longer than the window, set sliding_window to null in config.json",
    "attn_logit_softcapping": "choose a model without soft-capped attention",
    "final_logit_softcapping": "choose a model without soft-capped logits",
    "logit_scale": "choose a model whose logits are the plain product with the head",
    "logits_scaling": "choose a model whose logits are the plain product with the head",
}
"""Config keys that change attention or logits in a way the engine does not compute (Mistral 7B v0.1 and Phi-3: window;
Gemma 2: both caps; Cohere: logit_scale; Granite: logits_scaling), each with how to mend it."""


class Outputs(NamedTuple):
    """What leaves the root module; never logits."""

    values: Tensor
    """fp32 (W,) log-probabilities of the targets at the positions with weight > 0, or (S,) scores, one a segment."""
    entropy_K: Tensor
    """fp32, without gradient: entropy in nats of the next token at the first K <= ENTROPY_POSITIONS weighted positions;
    empty unless the model is trained."""


ENTROPY_POSITIONS = 128
"""Per micro-batch: enough to see entropy collapse over a few steps, and under 1 % of a step of 2,048 tokens."""


class PackedModel(nn.Module):
    """The root of a sharded model: its forward is the only way in, so that the root group is gathered for the head too."""

    def __init__(self, decoder: Any, lm_head: Any, score: nn.Linear | None) -> None:
        """Args:
        decoder: of transformers, without its head.
        lm_head: None where it is tied to the embedding.
        score: a linear layer to one number; then the model scores segments instead of predicting tokens.
        """
        super().__init__()
        self.model = decoder
        self.lm_head = lm_head
        self.score = score

    @property
    def layers(self) -> nn.ModuleList:
        return self.model.layers

    def forward(self, batch: PackedBatch, temperature: float) -> Outputs:
        """Log-probabilities of the targets, or scores of the segments."""
        bounds = batch.cu_seqlens_S1.tolist()
        hidden_1TH = self.model(
            input_ids=batch.input_ids_T[None],
            position_ids=batch.positions_T[None],
            attention_mask=None,
            use_cache=False,
            cu_seqlens_S1=batch.cu_seqlens_S1,
            segment_lengths=tuple(stop - start for start, stop in pairwise(bounds)),
        ).last_hidden_state
        hidden_TH = hidden_1TH[0]
        if self.score is not None:
            return Outputs(self._scores(hidden_TH, batch), hidden_TH.new_zeros(0, dtype=torch.float32))
        kept_W = batch.weights_T.nonzero().squeeze(1)
        hidden_WH, weight_VH = hidden_TH[kept_W], self._output_embedding()
        logprobs_W = token_logprobs(hidden_WH, weight_VH, batch.targets_T[kept_W], temperature)
        watched = ENTROPY_POSITIONS if torch.is_grad_enabled() else 0
        return Outputs(logprobs_W, token_entropy(hidden_WH[:watched], weight_VH, temperature))

    def _scores(self, hidden_TH: Tensor, batch: PackedBatch) -> Tensor:
        """fp32 (S,) at the last token of every segment; bf16 has too few digits to tell two good answers apart."""
        assert self.score is not None
        last_SH = hidden_TH[batch.cu_seqlens_S1[1:].long() - 1]
        weight_1H = self.score.weight
        in_full = torch.promote_types(last_SH.dtype, torch.float32)
        return (last_SH.to(in_full) @ weight_1H.to(in_full).T).squeeze(1)

    def _output_embedding(self) -> Tensor:
        return (self.model.embed_tokens if self.lm_head is None else self.lm_head).weight


def read_config(store: Store, trust_remote_code: bool) -> PreTrainedConfig:
    """The model's config; raises UnsupportedModel where it cannot be read or the engine would compute something else."""
    names = [name for name in store.names() if CONFIG_FILES.fullmatch(name)]
    if "config.json" not in names:
        raise UnsupportedModel(f"{store.root} has no config.json; a directory in Hugging Face format is needed")
    with tempfile.TemporaryDirectory() as directory:
        for name in names:
            store.get(name, Path(directory, name))
        try:
            config = AutoConfig.from_pretrained(directory, trust_remote_code=trust_remote_code)
        except ValueError as error:
            raise UnsupportedModel(f"{store.root}/config.json: {error}") from error
    check_config(config)
    return config


def check_config(config: PreTrainedConfig) -> None:
    """Raises UnsupportedModel, naming the key, where attention or logits would not be what the model defines."""
    values = config.to_dict()
    name = values.get("model_type")
    for key, remedy in REFUSED_UNLESS_ABSENT.items():
        if values.get(key) is not None:
            raise UnsupportedModel(f"model_type {name}: {key} = {values[key]!r} is not supported; {remedy}")
    other_layers = sorted(set(values.get("layer_types") or []) - {"full_attention"})
    if other_layers:
        raise UnsupportedModel(f"model_type {name}: layers of type {', '.join(other_layers)} are not supported")
    for key, value in values.items():
        if ("dropout" in key or key.endswith("pdrop")) and isinstance(value, int | float) and value > 0:
            # Dropout would draw from a global generator: a resumed run would differ.
            raise UnsupportedModel(f"model_type {name}: {key} = {value}; set it to 0 in config.json")


Head = Literal["logprobs", "scores"]


def build_on_meta(
    config: PreTrainedConfig,
    trust_remote_code: bool,
    head: Head = "logprobs",
    lora: Lora | None = None,
    dtype: torch.dtype = torch.float32,
) -> PackedModel:
    """The model without memory.

    Args:
        lora: freezes everything and puts adapters in.
        dtype: of masters and adapters.

    Raises:
        UnsupportedModel: it is not a decoder of the usual shape.
        AdapterError: `lora` names modules that it does not have.
    """
    register()
    with torch.device("meta"):
        causal_lm = AutoModelForCausalLM.from_config(
            config, attn_implementation=ATTENTION_NAME, dtype=dtype, trust_remote_code=trust_remote_code
        )
        score = nn.Linear(config.hidden_size, 1, bias=False, dtype=dtype) if head == "scores" else None
    name = type(causal_lm).__name__
    parts = dict(causal_lm.named_modules())
    missing = [part for part in ("model.layers", "model.embed_tokens", "lm_head") if part not in parts]
    if missing:
        raise UnsupportedModel(f"{name} has no {', '.join(missing)}; only decoders laid out like Llama are supported")
    if parts["lm_head"].bias is not None:
        raise UnsupportedModel(f"{name} has a bias in its head, which the engine does not add")
    persistent = set(causal_lm.state_dict()) - {parameter for parameter, _ in _all_parameters(causal_lm)}
    if persistent:
        raise UnsupportedModel(f"{name} stores buffers in its checkpoint ({', '.join(sorted(persistent)[:3])}, ...)")
    tied = parts["lm_head"].weight is parts["model.embed_tokens"].weight
    if lora is not None:
        inject(causal_lm, lora, tied)
        for parameter in causal_lm.parameters():
            if parameter.requires_grad:  # PEFT makes some of them fp32, whatever the model is
                parameter.data = parameter.data.to(dtype)
    return PackedModel(causal_lm.model, None if tied or head == "scores" else causal_lm.lm_head, score)


def allocate(module: PackedModel, device: torch.device) -> None:
    """Gives a (sharded) meta model its memory; parameters stay unset, buffers are computed from the config.

    Raises:
        UnsupportedModel: a module has buffers that transformers does not initialise.
    """
    module.to_empty(device=device)
    for part in module.modules():
        buffers = dict(part.named_buffers(recurse=False))
        if not buffers:
            continue
        for buffer in buffers.values():
            buffer.fill_(torch.nan)  # whatever transformers leaves out shows, instead of what the memory held before
        for parameter in part.parameters(recurse=False):
            parameter._is_hf_initialized = True  # pyright: ignore[reportAttributeAccessIssue] - transformers' mark for "leave it alone": only buffers are meant here
        with torch.no_grad():
            module.model._init_weights(part)
        unset = [name for name, buffer in buffers.items() if buffer.isnan().any()]
        if unset:
            raise UnsupportedModel(
                f"{type(part).__name__}: transformers does not say how to compute {', '.join(unset)}"
            )


def _all_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return module.named_parameters(remove_duplicate=False)
