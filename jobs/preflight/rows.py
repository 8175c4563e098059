"""Of which kind and how long the rows are that a stage will train on, before they are made."""

from cluster.artifacts import find_named
from cluster.storage import Store
from configs.schema.corpus import ShardsStage
from configs.schema.mix import MixStage
from configs.schema.ppo_stage import PpoStage
from configs.schema.run import ARTIFACT_PREFIX, Run, Stage
from configs.schema.training import TrainStage
from jobs.stages import check_rows_fit


def check_rows(run: Run, name: str, stage: Stage) -> None:
    """Raises DataError where a stage learns from rows of another kind than those that will be made."""
    if not isinstance(stage, TrainStage | PpoStage):
        return
    shards = run.stages.get(stage.shards)
    if isinstance(shards, ShardsStage):
        check_rows_fit(name, stage, stage.shards, shards.rows)


def context_of(run: Run, store: Store, name: str) -> int:
    """Tokens of the longest row of a shards or mix stage of the run, or of such an artifact. Raises ArtifactNotFound."""
    if name.startswith(ARTIFACT_PREFIX):
        artifact = find_named(store, name.removeprefix(ARTIFACT_PREFIX), ("shards", "mix"))
        return int(artifact.record["counts"]["context"])
    stage = run.stages[name]
    if isinstance(stage, MixStage):
        return context_of(run, store, next(iter(stage.fractions)))  # all have the same
    assert isinstance(stage, ShardsStage), name
    return stage.context
