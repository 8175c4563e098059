"""What a person reads when a stage is done, and whose Python files a stage may run."""

from pathlib import Path

import pytest

from cluster.artifacts import Artifact, attempt, find_artifact
from cluster.storage import Store
from jobs.cli.display import summary_line
from jobs.stages import Outcome, trusts_code


def test_of_held_out_metrics_the_main_ones_are_shown_before_and_after() -> None:
    measured = {
        "heldout/loss": 0.5,
        "heldout/loss_before": 0.75,
        "heldout/lengths/chosen": 9.0,
        "heldout/lengths/chosen_before": 9.0,
    }
    outcome = Outcome(
        metrics={"steps": 3, "last_loss": 0.25, **measured},
        counts={"quarantined": {"duplicate": 1200}, "personal": {"email": 2}},
    )
    assert summary_line(outcome) == (
        ": quarantined 1,200 duplicate, personal data replaced 2 email, steps 3, last loss 0.25, heldout/loss 0.75 -> 0.5"
    )
    assert summary_line(Outcome()) == ""
    mixed = Outcome(counts={"context": 1024, "shares": {"papers": 0.95, "wiki": 0.05003}})
    assert summary_line(mixed) == ": context 1,024, shares 0.9500 papers, 0.0500 wiki"


def made(store: Store, kind: str, key: str, settings: dict[str, bool], **parents: str) -> Artifact:
    with attempt(store, kind, key) as own:
        own.commit({"name": key, "parents": parents, "licences": [], "config": {}, "settings": settings})
    artifact = find_artifact(store, kind, key)
    assert artifact is not None
    return artifact


@pytest.mark.parametrize("trusted", [True, False])
def test_trust_follows_a_model_through_training_and_merging(tmp_path: Path, trusted: bool) -> None:
    store = Store(str(tmp_path))
    made(store, "model", "base", {"trust_remote_code": trusted})
    adapters = made(store, "cpt", "adapted", {}, model="model-base")
    merged = made(store, "model", "merged", {}, adapter="cpt-adapted", base="model-base")
    of_directories = made(store, "model", "outside", {})
    assert trusts_code(store, adapters) is trusts_code(store, merged) is trusted
    assert not trusts_code(store, of_directories)
