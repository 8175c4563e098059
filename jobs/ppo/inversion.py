"""Seeded sampling inside vLLM's CPU worker at the price of unseeded: one random number for a token, not one for every word.

    SamplingParams.extra_args --vLLM tells SeedOfRow who is in which row--> (seed, tokens so far) --uniform--> u
    logits_BV, u --inversion of the distribution--> token, log-probability

vLLM draws an exponential number for every word of every row that has a seed, row by row: with 49,152 words that took longer
than the model. And where the prompts of one pass exceed its budget of tokens it turns the generators of waiting rows back,
which a CPU's cannot do: it dies. Here u is a function of (seed, place in the answer) alone, so there is nothing to turn back,
and how requests are batched does not change which numbers are drawn.
"""

import numpy as np
import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.v1.outputs import LogprobsTensors, SamplerOutput
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.sampler import Sampler

SEED = "acclimate_seed"
"""In a request's extra_args."""
BLOCK = 256
"""Words whose probabilities are added up first: the sums of 49,152 words are 192 numbers, in which the word is looked for."""


class SeedOfRow(LogitsProcessor):
    """Changes no logits: it is the place where vLLM says which request is in which row of the batch."""

    def __init__(self, vllm_config: object, device: torch.device, is_pin_memory: bool) -> None:
        del vllm_config, device, is_pin_memory
        self._rows: dict[int, tuple[int, list[int]]] = {}

    def is_argmax_invariant(self) -> bool:
        return True

    def apply(self, logits: Tensor) -> Tensor:
        return logits

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        process_dict_updates(self._rows, batch_update, _seed_and_answer)

    def uniform(self, rows: int) -> Tensor | None:
        """fp64 (rows,) in [0, 1), the number that decides on each row's next token; None where a row has no seed of ours."""
        if len(self._rows) != rows:
            return None
        found = [self._rows[row] for row in range(rows)]
        return uniform([seed for seed, _ in found], [len(answer) for _, answer in found])


class SeededSampler(Sampler):
    """vLLM's sampler for all else; rows with seeds of ours are drawn by inversion."""

    def forward(
        self, logits: Tensor, sampling_metadata: SamplingMetadata, *arguments: object, **named: object
    ) -> SamplerOutput:
        """As vLLM calls it; logits are (rows, words)."""
        seeds = [one for one in sampling_metadata.logitsprocs.argmax_invariant if isinstance(one, SeedOfRow)]
        uniform_B = seeds[0].uniform(len(logits)) if seeds else None
        if uniform_B is None:
            return super().forward(logits, sampling_metadata, *arguments, **named)  # pyright: ignore[reportArgumentType]
        assert sampling_metadata.temperature is not None and sampling_metadata.all_random
        sampled_B, logprobs_B = invert(logits, sampling_metadata.temperature, uniform_B)
        ids_B1 = sampled_B.to(torch.int32)[:, None]
        nobody_asks_for_ranks = torch.zeros_like(sampled_B)
        return SamplerOutput(ids_B1, LogprobsTensors(ids_B1, logprobs_B[:, None], nobody_asks_for_ranks))


def uniform(seeds: list[int], places: list[int]) -> Tensor:
    """fp64 (N,) in [0, 1) from seeds below 2**64 and places from 0: SplitMix64 (Steele, Lea & Flood 2014, OOPSLA, figure 17)."""
    state = np.array(seeds, dtype=np.uint64) + np.array(places, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state += np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return torch.from_numpy((state >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def invert(logits_BV: Tensor, temperature_B: Tensor, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
    """The word at which the cumulated probability passes u: int64 (B,), and its fp32 log-probability (B,).

    Probabilities are made in fp32 and added up in fp64 over blocks of words and inside one block, so a word is drawn with its
    fp32 probability to a relative 1e-6; the smallest that can be drawn is far below one in 10^15.

    Args:
        logits_BV: any float type; they are not changed.
        temperature_B: > 0.
        uniform_B: fp64, in [0, 1).
    """
    rows, words = logits_BV.shape
    blocks = -(-words // BLOCK)
    weights_BV = torch.zeros(rows, blocks * BLOCK)
    scaled_BV = torch.div(logits_BV, temperature_B[:, None], out=weights_BV[:, :words])
    highest_B = scaled_BV.amax(1)
    scaled_BV.sub_(highest_B[:, None]).exp_()
    weights_BKN = weights_BV.view(rows, blocks, BLOCK)
    sums_BK = weights_BKN.sum(2).double().cumsum(1)
    total_B = sums_BK[:, -1]
    wanted_B = torch.minimum(uniform_B * total_B, total_B.nextafter(torch.zeros(())))
    block_B = torch.searchsorted(sums_BK, wanted_B[:, None], right=True)[:, 0]
    before_B = torch.nn.functional.pad(sums_BK, (1, 0)).gather(1, block_B[:, None])[:, 0]
    inside_BN = weights_BKN[torch.arange(rows), block_B].double().cumsum(1)
    # The two sums of a block differ by rounding: what is looked for must lie below the second one too.
    left_B = torch.minimum(wanted_B - before_B, inside_BN[:, -1].nextafter(torch.zeros(())))
    sampled_B = block_B * BLOCK + torch.searchsorted(inside_BN, left_B[:, None], right=True)[:, 0]
    chosen_B = logits_BV.gather(1, sampled_B[:, None])[:, 0].float() / temperature_B
    return sampled_B, chosen_B - highest_B - total_B.log().float()


def _seed_and_answer(
    parameters: SamplingParams, prompt_ids: list[int] | None, answer_ids: list[int]
) -> tuple[int, list[int]] | None:
    del prompt_ids
    found = (parameters.extra_args or {}).get(SEED)
    return None if found is None else (found, answer_ids)
