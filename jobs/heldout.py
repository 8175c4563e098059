"""Whether a corpus holds out what later stages measure on, known before anything is trained.

config --heldout_fraction: 0--> refused at once; corpus that is done --its counts--> refused before the stages after it
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from configs.schema.corpus import CorpusStage
from configs.schema.evaluation import EvaluateStage
from configs.schema.mix import MixStage
from configs.schema.ppo_stage import PpoStage
from configs.schema.run import Run, Stage, shards_behind
from configs.schema.training import TrainStage
from jobs.evaluate.heldout import EvaluationError


@dataclass(frozen=True)
class Wanted:
    """What a stage reads of a corpus' held-out split.

    Example:
        Wanted(key="stages.evaluation.sets.texts.documents", corpus="papers", documents=40, conversations=False)
    """

    key: str
    corpus: str
    documents: int
    conversations: bool


def check_fractions(run: Run, name: str, stage: Stage) -> None:
    """Raises EvaluationError where a stage measures on a corpus of this run that holds nothing out."""
    for wanted in _wanted(run, name, stage):
        corpus = run.stages[wanted.corpus]
        assert isinstance(corpus, CorpusStage), wanted
        if corpus.heldout_fraction == 0:
            raise EvaluationError(
                f"{wanted.key}: {wanted.corpus} holds no document out (heldout_fraction: 0). Set "
                f"stages.{wanted.corpus}.heldout_fraction, for example to 0.02, or leave out what is measured on it."
            )


def check_documents(run: Run, stages: Mapping[str, Stage], corpus: str, counts: Mapping[str, Any]) -> None:
    """Raises EvaluationError where one of `stages` wants more of a finished corpus than it holds out.

    How many of the held-out documents are conversations is not counted: that the whole corpus has too few is all that shows.

    Args:
        counts: of the corpus' record (jobs.corpus.collect.CorpusSummary).
    """
    for wanted in (each for name, stage in stages.items() for each in _wanted(run, name, stage)):
        there = min(counts["heldout"], counts["conversations"]) if wanted.conversations else counts["heldout"]
        if wanted.corpus == corpus and there < wanted.documents:
            kind = "conversations" if wanted.conversations else "documents"
            raise EvaluationError(
                f"{wanted.key}: {wanted.documents} held-out {kind} asked for, {corpus} has {there}. Ask for fewer, or raise "
                f"stages.{corpus}.heldout_fraction."
            )


def _wanted(run: Run, name: str, stage: Stage) -> Iterator[Wanted]:
    if isinstance(stage, EvaluateStage):
        for key, chosen in stage.sets.items():
            place = f"stages.{name}.sets.{key}.documents"
            yield Wanted(place, chosen.corpus, chosen.documents, chosen.rows == "messages")
        if stage.answers is not None:
            yield Wanted(f"stages.{name}.answers.prompts", stage.answers.corpus, stage.answers.prompts, True)
    elif isinstance(stage, TrainStage | PpoStage) and stage.heldout is not None:
        corpora = _learnt_corpora(run, stage.shards)
        if corpora:
            # A mix has held-out rows where one of its corpora has some: the one that holds most out.
            most = max(corpora, key=lambda corpus: _heldout_fraction(run, corpus))
            yield Wanted(f"stages.{name}.heldout", most, 1, False)


def _learnt_corpora(run: Run, name: str) -> list[str]:
    """The corpora behind shards or a mix, but for what is replayed; none where one of them is an artifact."""
    mix = run.stages.get(name)
    names = list(mix.shares) if isinstance(mix, MixStage) else [name]
    shards = shards_behind(run, name)
    return [shards[each].corpus for each in names] if all(each in shards for each in names) else []


def _heldout_fraction(run: Run, name: str) -> float:
    corpus = run.stages[name]
    assert isinstance(corpus, CorpusStage), name
    return corpus.heldout_fraction
