"""Causal attention inside each segment of a packed row, and nothing across.

    PackedModel.forward --segment_lengths, shared_starts as kwargs--> transformers' attention layer -> packed_attention

transformers derives a mask from position ids only under conditions that differ between versions and families; with them a
packed document's logits moved by 0.42. Here no mask over a row exists at all: a segment is cut out and attended to alone. The
name is registered as an attention function and left out of the mask functions, which makes transformers build no mask.

A segment that shares its start with an earlier one (answers to one prompt) reads that one's first keys and values before its
own. Rotary angles are in them already, and a token sees only what is before it, so they are the same numbers.
"""

from itertools import accumulate
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
    shared_starts: tuple[tuple[int, int], ...] | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers' layers call it; K query heads, J key/value heads, head size D.

    Args:
        shared_starts: for every segment (earlier segment, how many of its first tokens come before this one's).
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
        keys, values = key_1JTD, value_1JTD
        key_lengths = segment_lengths
        if shared_starts is not None:
            read, key_lengths = _read_order(segment_lengths, shared_starts)
            order = torch.tensor(read, device=query_1KTD.device)
            keys, values = key_1JTD.index_select(2, order), value_1JTD.index_select(2, order)
        output = _attention_gpu(query_1KTD, keys, values, scaling, cu_seqlens_S1, key_lengths, sliding_window)
        return output, None
    # Repeating the key/value heads was 3-7 % faster here than enable_gqa (bf16 and fp32, 128 to 1,024 tokens).
    groups = query_1KTD.shape[1] // key_1JTD.shape[1]
    queries, keys, values = (
        heads.split(segment_lengths, dim=2)
        for heads in (query_1KTD, _repeat_heads(key_1JTD, groups), _repeat_heads(value_1JTD, groups))
    )
    outputs: list[Tensor] = []
    for segment, query in enumerate(queries):
        key, value = keys[segment], values[segment]
        source, known = (0, 0) if shared_starts is None else shared_starts[segment]
        if known:
            key = torch.cat([keys[source][:, :, :known], key], dim=2)
            value = torch.cat([values[source][:, :, :known], value], dim=2)
        outputs.append(_attend(query, key, value, scaling, sliding_window, softcap))
    return torch.cat([output.transpose(1, 2) for output in outputs], dim=1), None


def _attend(
    query_1KTD: Tensor, key_1KUD: Tensor, value_1KUD: Tensor, scaling: float, window: int | None, softcap: float | None
) -> Tensor:
    """The last T tokens of a text of U; (1, K, T, D)."""
    tokens, seen = query_1KTD.shape[2], key_1KUD.shape[2]
    inside = window is None or seen <= window
    if softcap is None and inside and tokens == seen:
        return F.scaled_dot_product_attention(query_1KTD, key_1KUD, value_1KUD, is_causal=True, scale=scaling)
    seen_TU = torch.ones(tokens, seen, dtype=torch.bool, device=query_1KTD.device).tril(seen - tokens)
    if window is not None and not inside:
        seen_TU = seen_TU.triu(seen - tokens + 1 - window)
    if softcap is None:
        return F.scaled_dot_product_attention(query_1KTD, key_1KUD, value_1KUD, attn_mask=seen_TU, scale=scaling)
    # No kernel of torch has a cap inside: K x T x U scores are in memory, 134 MB in fp32 for 8 heads and 2,048 tokens.
    in_full = torch.promote_types(query_1KTD.dtype, torch.float32)
    scores_1KTU = (query_1KTD @ key_1KUD.transpose(2, 3)).to(in_full) * scaling
    scores_1KTU = softcap * torch.tanh(scores_1KTU / softcap)
    return scores_1KTU.masked_fill(~seen_TU, -torch.inf).softmax(-1).to(value_1KUD.dtype) @ value_1KUD


def _read_order(
    lengths: tuple[int, ...], shared_starts: tuple[tuple[int, int], ...]
) -> tuple[list[int], tuple[int, ...]]:
    """Which keys the segments read, one after the other, and how many each."""
    starts = [0, *accumulate(lengths)]
    read: list[int] = []
    for segment, (source, known) in enumerate(shared_starts):
        read += [*range(starts[source], starts[source] + known), *range(starts[segment], starts[segment + 1])]
    return read, tuple(length + known for length, (_, known) in zip(lengths, shared_starts, strict=True))


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
    key_lengths: tuple[int, ...],
    window: int | None,
) -> Tensor:
    """FlashAttention over all segments at once; of queries fewer than keys it aligns the ends. Not run yet: no GPU at hand."""
    longest = max(key_lengths)
    cu_keys_S1 = torch.tensor([0, *accumulate(key_lengths)], dtype=torch.int32, device=query_1KTD.device)
    packed = [heads.squeeze(0).transpose(0, 1) for heads in (query_1KTD, key_1JTD, value_1JTD)]
    output_TKD = varlen_attn(
        *packed,
        cu_seq_q=cu_seqlens_S1,
        cu_seq_k=cu_keys_S1,
        max_q=longest,
        max_k=longest,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query_1KTD.shape[1] != key_1JTD.shape[1],
    )
    assert isinstance(output_TKD, Tensor)
    return output_TKD.unsqueeze(0)
