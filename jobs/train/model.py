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
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from cluster.storage import Store
from configs.schema.objectives import Lora
from jobs.train.adapters import inject
from jobs.train.attention import ATTENTION_NAME, UnsupportedModel, register
from jobs.train.batch import PackedBatch
from jobs.train.families import brings_own_code, check_config
from jobs.train.head import token_entropy, token_logprobs, token_logprobs_and_entropy
from jobs.train.nf4 import Nf4Linear, replace_linears

CONFIG_FILES = re.compile(r"config\.json|.*\.py")
"""What transformers needs to build a model: its config, and its code where that travels with it."""

LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")
"""Their angles depend on the longest text of a forward pass once it passes the original length."""


class Outputs(NamedTuple):
    """What leaves the root module; never logits."""

    values: Tensor
    """fp32, by the head: (W,) log-probabilities of the targets at the positions with weight > 0, (W,) values of the text up
    to those positions, or (S,) scores, one a segment."""
    entropy_K: Tensor
    """fp32, entropy in nats of the next token. Watched: at the first K <= ENTROPY_POSITIONS weighted positions, without
    gradient, empty unless the model is trained. Learnt: at all of them (K = W), with gradient."""


ENTROPY_POSITIONS = 128
"""Per micro-batch: enough to see entropy collapse over a few steps, and under 1 % of a step of 2,048 tokens."""


EntropyUse = Literal["watched", "learnt"]
Head = Literal["logprobs", "scores", "values"]
"""What a model gives of a text: log-probabilities of its tokens, one score at its end, or a value before each token."""


class PackedModel(nn.Module):
    """The root of a sharded model: its forward is the only way in, so that the root group is gathered for the head too."""

    def __init__(
        self,
        decoder: Any,
        lm_head: Any,
        score: nn.Linear | None,
        head: Head = "logprobs",
        softcap: float | None = None,
        logit_scale: float = 1.0,
        longest_segment: int | None = None,
    ) -> None:
        """Args:
        decoder: of transformers, without its head.
        lm_head: None where it is tied to the embedding.
        score: a linear layer to one number, for the heads that do not predict tokens.
        softcap, logit_scale: what becomes of the logits, `check_config` lets at most one of them be unusual.
        longest_segment: in tokens, where a longer one would change what its neighbours are (`longest_segment_of`).
        """
        super().__init__()
        self.model = decoder
        self.lm_head = lm_head
        self.score, self.head = score, head
        self.softcap, self.logit_scale, self.longest_segment = softcap, logit_scale, longest_segment

    @property
    def layers(self) -> nn.ModuleList:
        return self.model.layers

    def forward(self, batch: PackedBatch, temperature: float, entropy: EntropyUse = "watched") -> Outputs:
        """What the head gives; the temperature divides logits, never scores and values."""
        lengths = tuple(stop - start for start, stop in pairwise(batch.cu_seqlens_S1.tolist()))
        shared = None if batch.shared_S2 is None else tuple(map(tuple, batch.shared_S2.tolist()))
        if self.longest_segment is not None:
            check_length(int(batch.positions_T.max()) + 1, self.longest_segment)
        hidden_1TH = self.model(
            input_ids=batch.input_ids_T[None],
            position_ids=batch.positions_T[None],
            attention_mask=None,
            use_cache=False,
            cu_seqlens_S1=batch.cu_seqlens_S1,
            segment_lengths=lengths,
            shared_starts=shared,
        ).last_hidden_state
        hidden_TH = hidden_1TH[0]
        kept_W = batch.weights_T.nonzero().squeeze(1)
        if self.score is not None:
            rows_N = kept_W if self.head == "values" else batch.cu_seqlens_S1[1:].long() - 1
            return Outputs(self._scores(hidden_TH[rows_N]), hidden_TH.new_zeros(0, dtype=torch.float32))
        hidden_WH, weight_VH, targets_W = hidden_TH[kept_W], self._output_embedding(), batch.targets_T[kept_W]
        temperature = temperature / self.logit_scale
        if entropy == "learnt":
            return Outputs(*token_logprobs_and_entropy(hidden_WH, weight_VH, targets_W, temperature, self.softcap))
        logprobs_W = token_logprobs(hidden_WH, weight_VH, targets_W, temperature, self.softcap)
        watched = ENTROPY_POSITIONS if torch.is_grad_enabled() else 0
        return Outputs(logprobs_W, token_entropy(hidden_WH[:watched], weight_VH, temperature, self.softcap))

    def _scores(self, hidden_NH: Tensor) -> Tensor:
        """fp32 (N,); bf16 has too few digits to tell two good answers apart."""
        assert self.score is not None
        weight_1H = self.score.weight
        in_full = torch.promote_types(hidden_NH.dtype, torch.float32)
        return (hidden_NH.to(in_full) @ weight_1H.to(in_full).T).squeeze(1)

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
            if brings_own_code(config, trust_remote_code):
                # Known to transformers from here on: `from_config` would look for the file in a directory that is gone.
                own = get_class_from_dynamic_module(config.auto_map["AutoModelForCausalLM"], directory)
                AutoModelForCausalLM.register(type(config), own, exist_ok=True)
        except ValueError as error:
            raise UnsupportedModel(f"{store.root}/config.json: {error}") from error
    check_config(config, brings_own_code(config, trust_remote_code))
    return config


def longest_segment_of(config: PreTrainedConfig) -> int | None:
    """Tokens up to which the rotary angles of a segment do not depend on its neighbours; None: however many."""
    rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    per_layer_type = [rope, *(inner for inner in rope.values() if isinstance(inner, dict))]
    longest = [
        int(parameters.get("original_max_position_embeddings") or config.max_position_embeddings)
        for parameters in per_layer_type
        if parameters.get("rope_type") in LENGTH_DEPENDENT_ROPE
    ]
    return min(longest, default=None)


def check_length(tokens: int, longest: int) -> None:
    """Raises UnsupportedModel where a packed row may hold a segment that changes its neighbours."""
    if tokens > longest:
        raise UnsupportedModel(
            f"rope_type {' and '.join(LENGTH_DEPENDENT_ROPE)}: a text of {tokens} tokens would change the rotary angles of "
            f"what is packed beside it; choose a `context` of at most {longest}"
        )


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
        score = nn.Linear(config.hidden_size, 1, bias=False, dtype=dtype) if head != "logprobs" else None
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
        if lora.base == "nf4":
            replace_linears(parts["model.layers"])
    return PackedModel(
        causal_lm.model,
        None if tied or score is not None else causal_lm.lm_head,
        score,
        head,
        getattr(config, "final_logit_softcapping", None),
        getattr(config, "logit_scale", 1.0) / getattr(config, "logits_scaling", 1.0),
        longest_segment_of(config),
    )


def allocate(module: PackedModel, device: torch.device) -> None:
    """Gives a (sharded) meta model its memory; parameters stay unset, buffers are computed from the config.

    Raises:
        UnsupportedModel: a module has buffers that transformers does not initialise.
    """
    module.to_empty(device=device)
    for part in module.modules():
        buffers = dict(part.named_buffers(recurse=False))
        if not buffers or isinstance(part, Nf4Linear):  # codes are read, not computed
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
