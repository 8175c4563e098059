"""Causal attention inside each segment of a packed row, and nothing across.

    PackedModel.forward --cu_seqlens_S1, segment_lengths as kwargs--> transformers' attention layer -> packed_attention

transformers derives a mask from position ids only under conditions that differ between versions and families; with them a
packed document's logits moved by 0.42. Here no mask exists at all: a segment is cut out and attended to alone. The name is
registered as an attention function and left out of the mask functions, which makes transformers build no mask.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

ATTENTION_NAME = "acclimate_packed"


class UnsupportedModel(ValueError):
    """The model computes something the engine does not; the message says what, and how to mend it."""


HARMLESS_ARGUMENTS = frozenset({"dropout", "is_causal", "output_attentions", "position_ids", "use_cache"})
"""Arguments of transformers' layers that do not change the result here: dropout is refused in the config, the rest is
bookkeeping. Any other one (sliding_window, softcap, s_aux, ...) would change it, so it is refused by name."""


def register() -> None:
    """Makes `attn_implementation=ATTENTION_NAME` known to transformers; repeating it changes nothing."""
    AttentionInterface.register(ATTENTION_NAME, packed_attention)


def packed_attention(
    module: nn.Module,
    query_1KTD: Tensor,
    key_1JTD: Tensor,
    value_1JTD: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    cu_seqlens_S1: Tensor,
    segment_lengths: tuple[int, ...],
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers' layers call it; K query heads, J key/value heads, head size D.

    Returns the output as (1, T, K, D), and None for the attention weights.

    Raises:
        UnsupportedModel: the layer asks for a variant (sliding window, soft cap, sinks, mask) that is not computed here.
    """
    refused = sorted(name for name, value in others.items() if name not in HARMLESS_ARGUMENTS and value is not None)
    if attention_mask is not None:
        refused.append("attention_mask")
    if refused:
        raise UnsupportedModel(
            f"{type(module).__name__} asks for attention with {', '.join(refused)}; only plain causal attention is "
            "implemented. Train a model without it, or switch the feature off in its config.json."
        )
    if query_1KTD.is_cuda:
        return _attention_gpu(query_1KTD, key_1JTD, value_1JTD, scaling, cu_seqlens_S1, max(segment_lengths)), None
    return _attention_cpu(query_1KTD, key_1JTD, value_1JTD, scaling, segment_lengths), None


def _attention_cpu(
    query_1KTD: Tensor, key_1JTD: Tensor, value_1JTD: Tensor, scaling: float, segment_lengths: tuple[int, ...]
) -> Tensor:
    # Repeating the key/value heads was 3-7 % faster here than enable_gqa (bf16 and fp32, 128 to 1,024 tokens).
    groups = query_1KTD.shape[1] // key_1JTD.shape[1]
    key_1KTD = _repeat_heads(key_1JTD, groups)
    value_1KTD = _repeat_heads(value_1JTD, groups)
    outputs = [
        F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
        for query, key, value in zip(
            query_1KTD.split(segment_lengths, dim=2),
            key_1KTD.split(segment_lengths, dim=2),
            value_1KTD.split(segment_lengths, dim=2),
            strict=True,
        )
    ]
    return torch.cat([output.transpose(1, 2) for output in outputs], dim=1)


def _repeat_heads(heads_1JTD: Tensor, groups: int) -> Tensor:
    """(1, J, T, D) -> (1, J * groups, T, D), each head `groups` times in a row."""
    if groups == 1:
        return heads_1JTD
    _, heads, tokens, size = heads_1JTD.shape
    return heads_1JTD[:, :, None].expand(1, heads, groups, tokens, size).reshape(1, heads * groups, tokens, size)


def _attention_gpu(
    query_1KTD: Tensor, key_1JTD: Tensor, value_1JTD: Tensor, scaling: float, cu_seqlens_S1: Tensor, longest: int
) -> Tensor:
    """FlashAttention over all segments at once. Not run yet: no GPU was at hand."""
    packed = [heads.squeeze(0).transpose(0, 1) for heads in (query_1KTD, key_1JTD, value_1JTD)]
    output_TKD = varlen_attn(
        *packed,
        cu_seq_q=cu_seqlens_S1,
        cu_seq_k=cu_seqlens_S1,
        max_q=longest,
        max_k=longest,
        scale=scaling,
        window_size=(-1, 0),
        enable_gqa=query_1KTD.shape[1] != key_1JTD.shape[1],
    )
    assert isinstance(output_TKD, Tensor)
    return output_TKD.unsqueeze(0)
