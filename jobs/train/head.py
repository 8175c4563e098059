"""Hidden states -> log-probabilities of the targets, without ever handing out logits.

    hidden_WH (positions with weight > 0) --chunks of rows--> logits_CV -> logprobs_C

The vocabulary is what makes this the largest matrix of the model (2,048 positions x 49,152 words x 4 bytes = 400 MB). The
logits of a chunk are made in the model's type, reduced in fp32, and thrown away. Where all chunks together fit a budget
their bf16 logits are kept for the backward pass; above it they are computed a second time.
"""

from typing import Any

import torch
from torch import Tensor

CHUNK_ROWS = 512
"""Rows of logits in fp32 at a time: 100 MB at 49,152 words, and a matrix product still long enough to run at full speed."""
KEPT_LOGITS_BYTES = 1 << 29
"""512 MiB of logits are kept for the backward pass: a micro-batch of 4,096 tokens at 49,152 words in bf16 is 403 MB."""


def token_logprobs(
    hidden_WH: Tensor, weight_VH: Tensor, targets_W: Tensor, temperature: float = 1.0, softcap: float | None = None
) -> Tensor:
    """log softmax(capped(hidden @ weight.T) / temperature)[target], row by row.

    Args:
        hidden_WH: in the type of `weight_VH` (bf16 or fp32; fp64 in tests), only rows whose log-probability is wanted.
        weight_VH: the output embedding.
        targets_W: int64.
        temperature: > 0, of the sampler whose log-probabilities are meant.
        softcap: logits l become softcap x tanh(l / softcap) first (Gemma 2, arXiv 2408.00118).

    Returns:
        fp32 (W,), or fp64 for fp64 input. Matrix products run in the input's type, the log-sum-exp in the result's.
    """
    return _TokenLogprobs.apply(hidden_WH, weight_VH, targets_W, temperature, softcap)


def token_entropy(
    hidden_WH: Tensor, weight_VH: Tensor, temperature: float = 1.0, softcap: float | None = None
) -> Tensor:
    """Entropy in nats of each row's next-token distribution, (W,) in fp32; a figure to watch, without gradient."""
    with torch.no_grad():
        entropies = []
        for rows_CH in hidden_WH.split(CHUNK_ROWS):
            logprobs_CV = _final_logits(rows_CH @ weight_VH.T, temperature, softcap).log_softmax(-1)
            entropies.append(-(logprobs_CV.exp() * logprobs_CV).sum(-1))
        return torch.cat(entropies)


def _final_logits(logits_CV: Tensor, temperature: float, softcap: float | None) -> Tensor:
    """What the softmax is taken of, in the reduction's type."""
    logits_CV = _in_reduction_type(logits_CV)
    if softcap is not None:
        logits_CV.div_(softcap).tanh_().mul_(softcap)
    return logits_CV.div_(temperature)


def _in_reduction_type(logits_CV: Tensor) -> Tensor:
    """A copy in fp32 (fp64 stays): the caller may write into it."""
    return logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32), copy=True)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_WH: Tensor, weight_VH: Tensor, targets_W: Tensor, temperature: float, softcap: float | None
    ) -> Tensor:
        fits = hidden_WH.shape[0] * weight_VH.shape[0] * hidden_WH.element_size() <= KEPT_LOGITS_BYTES
        keep = fits and any(ctx.needs_input_grad[:2])
        kept: list[Tensor] = []
        logprobs, normalizers = [], []
        for rows_CH, targets_C in zip(hidden_WH.split(CHUNK_ROWS), targets_W.split(CHUNK_ROWS), strict=True):
            logits_CV = rows_CH @ weight_VH.T
            if keep:
                kept.append(logits_CV)
            scaled_CV = _final_logits(logits_CV, temperature, softcap)
            chosen_C = scaled_CV.gather(1, targets_C[:, None]).squeeze(1)
            highest_C = scaled_CV.amax(1)
            normalizer_C = scaled_CV.sub_(highest_C[:, None]).exp_().sum(1).log_().add_(highest_C)
            logprobs.append(chosen_C - normalizer_C)
            normalizers.append(normalizer_C)
        ctx.save_for_backward(hidden_WH, weight_VH, targets_W, torch.cat(normalizers), *kept)
        ctx.temperature, ctx.softcap = temperature, softcap
        return torch.cat(logprobs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """d logprob / d logit = (1[v = target] - softmax_v) / temperature x (1 - (capped logit / cap)^2).

        The sum over chunks is kept in fp32.
        """
        (grad_W,) = grads
        hidden_WH, weight_VH, targets_W, normalizers_W, *kept = ctx.saved_tensors
        grad_hidden_WH = torch.empty_like(hidden_WH)
        grad_weight_VH: Tensor | None = None
        for number, start in enumerate(range(0, max(hidden_WH.shape[0], 1), CHUNK_ROWS)):
            chunk = slice(start, start + CHUNK_ROWS)
            rows_CH = hidden_WH[chunk]
            logits_CV = kept[number] if kept else rows_CH @ weight_VH.T
            scale_C1 = (grad_W[chunk] / ctx.temperature)[:, None]
            final_CV = _final_logits(logits_CV, ctx.temperature, ctx.softcap)
            slope_CV = None if ctx.softcap is None else 1 - (final_CV * (ctx.temperature / ctx.softcap)).square_()
            grad_CV = final_CV.sub_(normalizers_W[chunk, None]).exp_()
            grad_CV.mul_(-scale_C1).scatter_add_(1, targets_W[chunk, None], scale_C1)
            if slope_CV is not None:
                grad_CV.mul_(slope_CV)
            grad_CV = grad_CV.to(weight_VH.dtype)
            torch.mm(grad_CV, weight_VH, out=grad_hidden_WH[chunk])
            product_VH = grad_CV.T @ rows_CH
            if hidden_WH.shape[0] <= CHUNK_ROWS:
                return grad_hidden_WH, product_VH, None, None, None
            product_VH = _in_reduction_type(product_VH)
            grad_weight_VH = product_VH if grad_weight_VH is None else grad_weight_VH.add_(product_VH)
        assert grad_weight_VH is not None
        return grad_hidden_WH, grad_weight_VH.to(weight_VH.dtype), None, None, None
