"""What a fresh sampler must show before it is trusted: that weights sent to it change what it computes, kind by kind.

    for every kind of tensor (q, k, v, ..., norms, embedding, head):
        first layer, or that tensor, with noise on the one kind --update--> log-probabilities must change
    everything as it was                                        --update--> log-probabilities must be those of before

Once after each start of an engine: how weights are packed depends on library, processor and type, and a kind that the update
does not reach would otherwise stay at its first values in silence.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cluster.weights import LAYER, WeightSyncFailed
from jobs.train.weights import EMBEDDING, HEAD

PROBE_TOKENS = 64
"""One sequence; a change that these do not show would be no change of a layer."""
NOISE = 0.5
"""Of the tensor's root mean square: a model with one kind of tensor changed so much is another model."""
NOISE_ON_ZEROS = 0.1
VISIBLE_NATS, RESTORED_NATS = 1e-3, 1e-5
"""Of the most changed token. The same weights give the same bits in one engine; noise gives tenths of a nat."""


@dataclass(frozen=True)
class Kind:
    """Tensors sent together, and the noise on one of them."""

    name: str
    group: tuple[str, ...]
    """What vLLM fuses arrives together: a whole layer, or a tensor outside the layers."""
    rows: Tensor | None = None
    """Which rows get noise; None: all."""


def check_canary(
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], Tensor],
    update: Callable[[dict[str, Tensor]], object],
    logprobs: Callable[[list[int]], Tensor],
) -> None:
    """Raises WeightSyncFailed, naming the kind of tensor that updates do not reach.

    Args:
        shapes: of the model's tensors by name, a tied head not among them.
        read: gives a tensor as the sampler has it now.
        update: sends some tensors, whole layers.
        logprobs: (T,) token ids -> (T - 1,) log-probabilities of all but the first.
    """
    generator = torch.Generator().manual_seed(0)
    vocabulary = shapes[EMBEDDING][0]
    tokens = torch.randint(vocabulary, (PROBE_TOKENS,), generator=generator)
    before = logprobs(tokens.tolist())
    groups: dict[tuple[str, ...], dict[str, Tensor]] = {}
    for kind in _kinds(shapes, tokens):
        weights = groups.setdefault(kind.group, {name: read(name) for name in kind.group})
        update(weights | {kind.name: _with_noise(weights[kind.name], kind.rows, generator)})
        changed = float((logprobs(tokens.tolist()) - before).abs().max())
        if not changed >= VISIBLE_NATS:
            what = "the head that is tied to it" if kind.rows is not None else "it"
            raise WeightSyncFailed(
                f"canary: noise on {kind.name} changed no log-probability by more than {changed:.1e} nats: this sampler goes "
                f"on computing with the old values of {what}. Do not train with it; is this vLLM the pinned one?"
            )
        update(weights)
    left = float((logprobs(tokens.tolist()) - before).abs().max())
    if not left <= RESTORED_NATS:
        raise WeightSyncFailed(
            f"canary: with its own weights sent again the sampler's log-probabilities are {left:.1e} nats away from those "
            "before. Do not train with it; is this vLLM the pinned one?"
        )


def _kinds(shapes: Mapping[str, tuple[int, ...]], tokens_T: Tensor) -> Iterable[Kind]:
    layers = {name: found[1] for name in shapes if (found := LAYER.match(name))}
    assert layers, f"no layers among {sorted(shapes)[:3]}"
    first = min(layers.values(), key=lambda layer: int(re.findall(r"\d+", layer)[-1]))
    of_layer = tuple(name for name, layer in layers.items() if layer == first)
    for name in of_layer:
        yield Kind(name, of_layer)
    for name in sorted(shapes.keys() - layers.keys()):
        yield Kind(name, (name,))
    if HEAD not in shapes:
        # The probe does not contain these tokens, so their rows reach its log-probabilities through the head alone.
        unseen = torch.ones(shapes[EMBEDDING][0], dtype=torch.bool)
        unseen[tokens_T] = False
        yield Kind(EMBEDDING, (EMBEDDING,), unseen)


def _with_noise(weight: Tensor, rows: Tensor | None, generator: torch.Generator) -> Tensor:
    size = float(weight.float().square().mean().sqrt()) * NOISE or NOISE_ON_ZEROS
    noise = size * torch.randn(weight.shape, generator=generator)
    if rows is not None:
        noise[~rows] = 0
    return (weight.float() + noise).to(weight.dtype)
