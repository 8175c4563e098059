"""What the gate of shards will say of the sources of their corpus: known from the run file alone."""

from collections.abc import Mapping

from configs.schema.corpus import CorpusStage, ShardsStage
from configs.schema.run import Run, Stage


def refused_sources(stage: ShardsStage, stages: Mapping[str, Stage]) -> dict[str, str]:
    """By source, why its documents will be set aside. A corpus that is a finished artifact says nothing here, nor does a source
    whose rows have licences of their own."""
    from jobs.corpus.gate import reason_against

    corpus = stages.get(stage.corpus)
    if not isinstance(corpus, CorpusStage):
        return {}
    reasons = {
        name: reason_against(stage.gate, source.licence, source.confidentiality)
        for name, source in corpus.sources.items()
        if source.licence_column is None
    }
    return {name: reason for name, reason in reasons.items() if reason is not None}


def check_gate(run: Run, name: str, stage: ShardsStage) -> None:
    """Raises DataError where no source of the corpus may be used."""
    from jobs.corpus.schema import DataError

    refused = refused_sources(stage, run.stages)
    corpus = run.stages.get(stage.corpus)
    if not isinstance(corpus, CorpusStage) or len(refused) < len(corpus.sources):
        return
    told = "\n".join(f"  {source}: {reason}" for source, reason in refused.items())
    raise DataError(
        f"stages.{name}.gate: no source of {stage.corpus} may be used for {' and '.join(stage.gate.purposes)}:\n{told}\n"
        "If your organisation may use them, add the licence to the list, e.g. "
        f"`gate: {{train: [permissive, {next(iter(corpus.sources.values())).licence}]}}`; for rows that are only measured on, "
        "say `gate: {purposes: []}`."
    )
