"""Examples of judged answers made of random tokens: pairs, a ranking with a tie, thumbs."""

import torch

from jobs.records import ExampleRow
from tests.train.tiny_models import VOCABULARY


def make_example(levels: list[int], prompt: int, answers: list[int], seed: int, margin: float = 0.0) -> ExampleRow:
    """One prompt of `prompt` tokens and answers of the given lengths; a level of -1 is a mismatched completion."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda count: torch.randint(3, VOCABULARY, (count,), generator=generator).tolist()  # noqa: E731
    start = draw(prompt)
    segments = [[*start, *draw(length)] for length in answers]
    return ExampleRow(
        [token for segment in segments for token in segment],
        [float(place >= prompt) for segment in segments for place in range(len(segment))],
        [len(segment) for segment in segments],
        [seed] * len(segments), levels, [prompt] * len(segments), margin,
    )  # fmt: skip


def make_pairs(number: int = 4) -> list[ExampleRow]:
    return [make_example([0, 1], 3 + index, [5 + index, 9 - index], seed=index) for index in range(number)]


def make_preferences() -> list[ExampleRow]:
    """Three pairs, one of them the worse first, and a ranking of four with a tie."""
    ranking = make_example([1, 0, 1, 2], 4, [6, 3, 8, 5], seed=11)
    return [*make_pairs(2), make_example([1, 0], 5, [4, 7], seed=12), ranking]


def make_thumbs(number: int = 4) -> list[ExampleRow]:
    """Up and down by turns, each with a mismatched completion behind its own."""
    return [
        make_example([index % 2, -1], 3 + index, [5 + index, 8 - index], seed=20 + index) for index in range(number)
    ]
