"""Rollouts of random tokens, and columns of made-up numbers for them."""

import torch
from torch import Tensor

from jobs.records import Rollout
from tests.train.tiny_models import VOCABULARY


def make_rollouts(lengths: list[tuple[int, int]], seed: int = 0) -> list[Rollout]:
    """Of (prompt, answer) tokens each; every second one belongs to the prompt before it, every third one is cut off."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda count: torch.randint(3, VOCABULARY, (count,), generator=generator).tolist()  # noqa: E731
    return [
        Rollout(
            prompt_id=index // 2, sample=index % 2, prompt_ids=draw(prompt), answer_ids=draw(answer),
            sampler_logprobs=(-5 * torch.rand(answer, generator=generator)).tolist(), finished=index % 3 != 2, version=0,
        )
        for index, (prompt, answer) in enumerate(lengths)
    ]  # fmt: skip


def made_up(rollouts: list[Rollout], seed: int, around: list[Tensor] | None = None, width: float = 1.0) -> list[Tensor]:
    """A column of normal numbers, around another one where it is given."""
    generator = torch.Generator().manual_seed(seed)
    noise = [width * torch.randn(len(rollout.answer_ids), generator=generator) for rollout in rollouts]
    return noise if around is None else [centre + value for centre, value in zip(around, noise, strict=True)]
