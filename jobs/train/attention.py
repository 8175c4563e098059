"""Causal attention inside each segment of a packed row, and nothing across.

    PackedModel.forward --cu_seqlens_S1, segment_lengths as kwargs--> transformers' attention layer -> packed_attention

transformers derives a mask from position ids only under conditions that differ between versions and families; with them a
packed document's logits moved by 0.42. Here no mask over a row exists at all: a segment is cut out and attended to alone. The
name is registered as an attention function and left out of the mask functions, which makes transformers build no mask.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

from configs.errors import UserError

ATTENTION_NAME = "acclimate_packed"


class UnsupportedModel(UserError, ValueError):
    """The model computes something the engine does not; the message says what, and how to mend it."""


HARMLESS_ARGUMENTS = frozenset({"dropout", "is_causal", "output_attentions", "position_ids", "use_cache"})
"""Arguments of transformers' layers that do not change the result here: dropout is refused in the config, the rest is
bookkeeping. Any other one (s_aux, ...) would change it, so it is refused by name."""


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
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers' layers call it; K query heads, J key/value heads, head size D.

    Args:
        sliding_window: a token sees itself and the `sliding_window` - 1 tokens before it.
        softcap: scores s become softcap x tanh(s / softcap) before the softmax (Gemma 2, arXiv 2408.00118).

    Returns the output as (1, T, K, D), and None for the attention weights.

    Raises:
        UnsupportedModel: the layer asks for a variant (sinks, mask) that is not computed here.
    """
    refused = sorted(name for name, value in others.items() if name not in HARMLESS_ARGUMENTS and value is not None)
    if attention_mask is not None:
        refused.append("attention_mask")
    if refused:
        raise UnsupportedModel(
            f"{type(module).__name__} asks for attention with {', '.join(refused)}; only causal attention, with or without "
            "sliding window and soft cap, is implemented. Train a model without it, or switch it off in its config.json."
        )
    if query_1KTD.is_cuda and softcap is None:
        longest = max(segment_lengths)
        return _attention_gpu(query_1KTD, key_1JTD, value_1JTD, scaling, cu_seqlens_S1, longest, sliding_window), None
    # Repeating the key/value heads was 3-7 % faster here than enable_gqa (bf16 and fp32, 128 to 1,024 tokens).
    groups = query_1KTD.shape[1] // key_1JTD.shape[1]
    key_1KTD, value_1KTD = _repeat_heads(key_1JTD, groups), _repeat_heads(value_1JTD, groups)
    segments = zip(*(heads.split(segment_lengths, dim=2) for heads in (query_1KTD, key_1KTD, value_1KTD)), strict=True)
    outputs = [_attend(query, key, value, scaling, sliding_window, softcap) for query, key, value in segments]
    return torch.cat([output.transpose(1, 2) for output in outputs], dim=1), None


def _attend(
    query_1KTD: Tensor, key_1KTD: Tensor, value_1KTD: Tensor, scaling: float, window: int | None, softcap: float | None
) -> Tensor:
    """One segment; (1, K, T, D)."""
    tokens = query_1KTD.shape[2]
    inside = window is None or tokens <= window
    if softcap is None and inside:
        return F.scaled_dot_product_attention(query_1KTD, key_1KTD, value_1KTD, is_causal=True, scale=scaling)
    seen_TT = torch.ones(tokens, tokens, dtype=torch.bool, device=query_1KTD.device).tril()
    if window is not None and not inside:
        seen_TT = seen_TT.triu(1 - window)
    if softcap is None:
        return F.scaled_dot_product_attention(query_1KTD, key_1KTD, value_1KTD, attn_mask=seen_TT, scale=scaling)
    # No kernel of torch has a cap inside: K x T x T scores are in memory, 134 MB in fp32 for 8 heads and 2,048 tokens.
    in_full = torch.promote_types(query_1KTD.dtype, torch.float32)
    scores_1KTT = (query_1KTD @ key_1KTD.transpose(2, 3)).to(in_full) * scaling
    scores_1KTT = softcap * torch.tanh(scores_1KTT / softcap)
    return scores_1KTT.masked_fill(~seen_TT, -torch.inf).softmax(-1).to(value_1KTD.dtype) @ value_1KTD


def _repeat_heads(heads_1JTD: Tensor, groups: int) -> Tensor:
    """(1, J, T, D) -> (1, J * groups, T, D), each head `groups` times in a row."""
    if groups == 1:
        return heads_1JTD
    _, heads, tokens, size = heads_1JTD.shape
    return heads_1JTD[:, :, None].expand(1, heads, groups, tokens, size).reshape(1, heads * groups, tokens, size)


def _attention_gpu(
    query_1KTD: Tensor,
    key_1JTD: Tensor,
    value_1JTD: Tensor,
    scaling: float,
    cu_seqlens_S1: Tensor,
    longest: int,
    window: int | None,
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
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query_1KTD.shape[1] != key_1JTD.shape[1],
    )
    assert isinstance(output_TKD, Tensor)
    return output_TKD.unsqueeze(0)
