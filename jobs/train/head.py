"""Hidden states -> log-probabilities of the targets, without ever handing out logits.

    hidden_WH (positions with weight > 0) --chunks of rows--> logits_CV -> logprobs_C, and entropy_C where it is learnt

The vocabulary is what makes this the largest matrix of the model (2,048 positions x 49,152 words x 4 bytes = 400 MB). The
logits of a chunk are made in the model's type, reduced in fp32, and thrown away. Where all chunks together fit a budget
their bf16 logits are kept for the backward pass; above it they are computed a second time.
"""

from typing import Any, Literal

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
    return _TokenLogprobs.apply(hidden_WH, weight_VH, targets_W, temperature, softcap, "watched")[0]


def token_logprobs_and_entropy(
    hidden_WH: Tensor, weight_VH: Tensor, targets_W: Tensor, temperature: float = 1.0, softcap: float | None = None
) -> tuple[Tensor, Tensor]:
    """`token_logprobs`, to the bit, and the entropy of every row with its gradient, from the same pass over the logits.

    Returns:
        logprobs_W and entropy_W in nats, both fp32 (W,), or fp64 for fp64 input.
    """
    return _TokenLogprobs.apply(hidden_WH, weight_VH, targets_W, temperature, softcap, "learnt")


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
    return logits_CV if temperature == 1 else logits_CV.div_(temperature)


def _in_reduction_type(logits_CV: Tensor) -> Tensor:
    """A copy in fp32 (fp64 stays): the caller may write into it."""
    return logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32), copy=True)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_WH: Tensor,
        weight_VH: Tensor,
        targets_W: Tensor,
        temperature: float,
        softcap: float | None,
        entropy: Literal["watched", "learnt"],
    ) -> tuple[Tensor, Tensor]:
        """Entropies are empty unless learnt."""
        fits = hidden_WH.shape[0] * weight_VH.shape[0] * hidden_WH.element_size() <= KEPT_LOGITS_BYTES
        keep = fits and any(ctx.needs_input_grad[:2])
        kept: list[Tensor] = []
        logprobs, normalizers, entropies = [], [], []
        for rows_CH, targets_C in zip(hidden_WH.split(CHUNK_ROWS), targets_W.split(CHUNK_ROWS), strict=True):
            logits_CV = rows_CH @ weight_VH.T
            if keep:
                kept.append(logits_CV)
            scaled_CV = _final_logits(logits_CV, temperature, softcap)
            chosen_C = scaled_CV.gather(1, targets_C[:, None]).squeeze(1)
            highest_C = scaled_CV.amax(1)
            scaled_CV.sub_(highest_C[:, None])
            below_CV = scaled_CV.clone() if entropy == "learnt" else None
            sum_C = scaled_CV.exp_().sum(1)
            if below_CV is not None:  # H = log sum(e^l) - sum(e^l l) / sum(e^l), with l the logits below the highest
                entropies.append(sum_C.log() - below_CV.mul_(scaled_CV).sum(1) / sum_C)
            normalizer_C = sum_C.log_().add_(highest_C)
            logprobs.append(chosen_C - normalizer_C)
            normalizers.append(normalizer_C)
        entropy_W = torch.cat(entropies) if entropies else normalizers[0][:0]
        ctx.save_for_backward(hidden_WH, weight_VH, targets_W, torch.cat(normalizers), entropy_W, *kept)
        ctx.temperature, ctx.softcap, ctx.entropy = temperature, softcap, entropy
        return torch.cat(logprobs), entropy_W

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        """d logprob / d logit = (1[v = target] - softmax_v) / temperature x (1 - (capped logit / cap)^2), and
        d entropy / d logit = -softmax_v x (log softmax_v + entropy) / temperature x the same slope.

        The sum over chunks is kept in fp32.
        """
        grad_W, entropy_grad_W = grads
        hidden_WH, weight_VH, targets_W, normalizers_W, entropy_W, *kept = ctx.saved_tensors
        grad_hidden_WH = torch.empty_like(hidden_WH)
        grad_weight_VH: Tensor | None = None
        for number, start in enumerate(range(0, max(hidden_WH.shape[0], 1), CHUNK_ROWS)):
            chunk = slice(start, start + CHUNK_ROWS)
            rows_CH = hidden_WH[chunk]
            logits_CV = kept[number] if kept else rows_CH @ weight_VH.T
            scale_C1 = (grad_W[chunk] / ctx.temperature)[:, None]
            final_CV = _final_logits(logits_CV, ctx.temperature, ctx.softcap)
            slope_CV = None if ctx.softcap is None else 1 - (final_CV * (ctx.temperature / ctx.softcap)).square_()
            final_CV.sub_(normalizers_W[chunk, None])
            if ctx.entropy == "learnt":
                entropy_scale_C1 = (entropy_grad_W[chunk] / ctx.temperature)[:, None]
                factor_CV = (final_CV + entropy_W[chunk, None]).mul_(-entropy_scale_C1).sub_(scale_C1)
                grad_CV = final_CV.exp_().mul_(factor_CV)
            else:
                grad_CV = final_CV.exp_().mul_(-scale_C1)
            grad_CV.scatter_add_(1, targets_W[chunk, None], scale_C1)
            if slope_CV is not None:
                grad_CV.mul_(slope_CV)
            grad_CV = grad_CV.to(weight_VH.dtype)
            torch.mm(grad_CV, weight_VH, out=grad_hidden_WH[chunk])
            product_VH = grad_CV.T @ rows_CH
            if hidden_WH.shape[0] <= CHUNK_ROWS:
                return grad_hidden_WH, product_VH, None, None, None, None
            product_VH = _in_reduction_type(product_VH)
            grad_weight_VH = product_VH if grad_weight_VH is None else grad_weight_VH.add_(product_VH)
        assert grad_weight_VH is not None
        return grad_hidden_WH, grad_weight_VH.to(weight_VH.dtype), None, None, None, None
