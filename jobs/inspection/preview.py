"""Rows as the model will read them: text in runs of tokens that are learnt, or only read."""

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from jobs.inspection.sample import Sample, SampledSegment

NAMES = {"preferences": {0: "chosen"}, "thumbs": {0: "thumb up", 1: "thumb down", -1: "mismatched (for KTO's KL term)"}}


@dataclass(frozen=True)
class Run:
    """Neighbouring tokens of one kind. Example: Run(text="Actin.<|im_end|>", learnt=True)"""

    text: str
    learnt: bool


@dataclass(frozen=True)
class PreviewSegment:
    """One text, conversation or judged answer; what lies beyond the context is `cut`."""

    title: str
    """chosen, rejected, thumb up, ...; empty where nothing is judged."""
    tokens: int
    learnt_tokens: int
    cut_tokens: int
    runs: list[Run]


@dataclass(frozen=True)
class PreviewRow:
    uri: str
    split: str
    segments: list[PreviewSegment]


def preview_rows(sample: Sample, count: int) -> list[PreviewRow]:
    """The first `count` rows of the sample."""
    return [
        PreviewRow(row.uri, row.split, [_segment(sample, segment, len(row.segments)) for segment in row.segments])
        for row in sample.rows[:count]
    ]


def _segment(sample: Sample, segment: SampledSegment, answers: int) -> PreviewSegment:
    kept = len(segment.input_ids) if sample.stage.rows == "text" else sample.stage.context
    ids, weights = segment.input_ids[:kept], segment.weights[:kept]
    runs: list[Run] = []
    for learnt, places in groupby(range(len(ids)), key=lambda place: weights[place] > 0):
        text: Any = sample.tokenizer.decode([ids[place] for place in places], clean_up_tokenization_spaces=False)
        runs.append(Run(text, learnt))
    title = _title(sample.stage.rows, segment.level, answers)
    return PreviewSegment(title, len(ids), sum(map(bool, weights)), len(segment.input_ids) - len(ids), runs)


def _title(rows: str, level: int | None, answers: int) -> str:
    if level is None:
        return ""
    named = NAMES[rows].get(level)
    if rows == "preferences" and answers > 2:
        return f"rank {level + 1}"
    return named or "rejected"
