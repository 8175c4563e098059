"""A run sent to a cluster, on S3: followed, stopped in the middle, sent again; it ends with the bytes of a run that nobody stopped."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cluster.storage import Store
from tests.cluster.head import TOKEN, Head, started_head
from tests.world.conditions import wait_for
from tests.world.s3 import S3Server
from tests.world.toy_run import CHECKOUT, ToyRun, write_toy_run

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

WITHOUT = ("tasks", "sft", "evaluation", "report")
STEPS = 30
ENDED_S = 240


def on_s3(run: ToyRun, s3_store: Store, model: Path) -> ToyRun:
    """The same run with its inputs and its store in the bucket, because a cluster has no file of this machine."""
    inputs = Store(f"{s3_store.root}/inputs")
    inputs.put(run.config.parent / "documents.jsonl", "documents.jsonl")
    for file in sorted(model.iterdir()):
        inputs.put(file, f"model/{file.name}")
    values = yaml.safe_load(run.config.read_text())
    values["store"] = s3_store.root
    values["stages"]["base"]["source"] = f"{inputs.root}/model"
    values["stages"]["papers"]["sources"]["made_up"]["path"] = f"{inputs.root}/documents.jsonl"
    config = run.config.with_name("on_s3.yaml")
    config.write_text(yaml.safe_dump(values, sort_keys=False))
    return ToyRun(config, s3_store)


def submit(head: Head, run: ToyRun) -> str:
    submitted = head.acclimate("submit", str(run.config), "--address", head.dashboard, "--json")
    assert submitted.returncode == 0, submitted.stderr
    return json.loads(submitted.stdout)["job_id"]


def ended(head: Head, job: str) -> int | None:
    """The exit code of `status --exit-code`, None while it runs."""
    code = head.acclimate("status", job, "--address", head.dashboard, "--exit-code").returncode
    return None if code == 101 else code


@pytest.mark.chaos
def test_a_submitted_run_is_stopped_with_a_checkpoint_and_goes_on(
    tmp_path: Path, tiny_model: Path, s3: S3Server, s3_store: Store
) -> None:
    unbroken = write_toy_run(tmp_path, tiny_model, str(tmp_path / "store"), without=WITHOUT, ranks=1, steps=STEPS)
    code, output = unbroken.finish()
    assert code == 0, output
    run = on_s3(unbroken, s3_store, tiny_model)
    with started_head(tmp_path / "home", s3.environment()) as head:
        job = submit(head, run)
        following = subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", "logs", "-f", job, "--address", head.dashboard], cwd=CHECKOUT,
            env={**head.environment, "RAY_AUTH_TOKEN": TOKEN}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        run.wait_for_step(2, timeout_s=ENDED_S)
        assert head.acclimate("stop", job, "--address", head.dashboard).returncode == 0
        assert wait_for("the end of what was stopped", lambda: ended(head, job), ENDED_S) == 103
        followed, _ = following.communicate(timeout=60)
        assert "cpt" in followed and "step" in followed
        again = submit(head, run)
        wait_for("the end of the second", lambda: ended(head, again) is not None, ENDED_S)
        said = head.acclimate("logs", again, "--address", head.dashboard).stdout
        assert ended(head, again) == 0, said
        assert "resuming" in said and "reused" in said
    assert run.digests("texts", "cpt") == unbroken.digests("texts", "cpt")
