"""Reward functions to start from; any `module:function` of the checkout can stand in their place."""

from typing import Any

WANTED_WORDS = 20
"""Two short sentences."""


def brevity(completions: list[list[dict[str, str]]], finished: list[bool], **columns: Any) -> list[float]:
    """1 for a finished answer of about WANTED_WORDS words, falling to 0 at none and at twice as many.

    Args:
        completions: each a list of one message, as TRL hands them over.
        finished: whether an answer ended by itself.
    """
    del columns
    rewards = []
    for completion, ended in zip(completions, finished, strict=True):
        words = len(completion[0]["content"].split())
        near = max(0.0, 1 - abs(words - WANTED_WORDS) / WANTED_WORDS)
        rewards.append(near if ended else 0.0)
    return rewards
