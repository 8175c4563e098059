"""Whole runs from the command line: once, again, and with the driver or the ranks killed; always the same bytes."""

import os
import random
import re
import signal
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import yaml

from cluster.runs import list_runs, read_events
from cluster.storage import Store
from tests.world.conditions import wait_for
from tests.world.fault_proxy import Action, Fault, fault_proxy
from tests.world.s3 import S3Server, s3_environment
from tests.world.toy_run import ToyRun, copy_artifacts, write_toy_run

pytestmark = pytest.mark.cluster

TRAINED = ("texts", "tasks", "cpt", "sft")
STEPS, SFT_STEPS = 60, 30
"""Of 0.04 s: there is time to see a checkpoint, find a rank and disturb the run while it trains."""


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[ToyRun, dict[str, str], str]:
    """A run that nothing disturbed, the digests of what it made, and what it printed."""
    directory = tmp_path_factory.mktemp("unbroken")
    run = write_toy_run(directory, tiny_model, str(directory / "store"), steps=STEPS, sft_steps=SFT_STEPS)
    code, output = run.finish()
    assert code == 0, output
    return run, run.digests(*TRAINED), output


def in_fresh_store(run: ToyRun, tmp_path: Path) -> ToyRun:
    """The same run up to the trained models in a store of its own: the same keys, nothing done yet."""
    values = yaml.safe_load(run.config.read_text())
    values["stages"] = {name: stage for name, stage in values["stages"].items() if name not in ("evaluation", "report")}
    config = tmp_path / "training.yaml"
    config.write_text(yaml.safe_dump(values, sort_keys=False))
    return ToyRun(config, Store(str(tmp_path / "store")))


def before_training(run: ToyRun, tmp_path: Path) -> ToyRun:
    """As `in_fresh_store`, with corpus and shards there already."""
    fresh = in_fresh_store(run, tmp_path)
    copy_artifacts(run.store, fresh.store, "cpt", "sft", "evaluation", "report")
    return fresh


def test_a_run_trains_measures_and_reports(unbroken: tuple[ToyRun, dict[str, str], str]) -> None:
    run, _, output = unbroken
    history = run.artifact("cpt").content.read_json("history.json")
    assert history[-1]["loss"] < history[0]["loss"] - 0.2
    assert b"<html" in run.artifact("report").content.read("report.html").lower()
    for word in ("cpt done in", "evaluation done in", "report.html"):
        assert word in output, output
    status = list_runs(run.store)[-1]
    assert status["status"] == "succeeded"
    events = [event for _, event in read_events(run.store, status["run_id"])]
    assert sum(event["type"] == "metrics" for event in events) == STEPS + SFT_STEPS
    assert run.artifact("sft").record["licences"] == ["Apache-2.0", "CC0-1.0"]
    assert run.artifact("papers").record["counts"]["quarantined"] == {"duplicate": 1, "broken_json": 1}


def test_the_second_time_it_is_a_no_op(unbroken: tuple[ToyRun, dict[str, str], str]) -> None:
    run, digests, _ = unbroken
    began = time.monotonic()
    code, output = run.finish()
    assert code == 0 and "starting Ray" not in output
    assert output.count("reused") == 8
    assert run.digests(*TRAINED) == digests
    assert time.monotonic() - began < 60


def test_a_driver_killed_again_and_again(unbroken: tuple[ToyRun, dict[str, str], str], tmp_path: Path) -> None:
    """With data written and no record of it, in the middle of training, and before the record of the last model."""
    run = in_fresh_store(unbroken[0], tmp_path)
    store = f"store={run.store.root}"
    code, output = run.finish(store, environment={"ACCLIMATE_KILL_AT": "after_data_before_record:3"})
    assert code == -signal.SIGKILL, output
    process = run.start(store)
    run.wait_for_step(2)
    process.kill()
    output, _ = process.communicate()
    assert output.count("reused") == 2  # the model and the corpus: of the first shards there is no record
    # At once, while Ray is still ending the killed driver's ranks: they must not disturb the new attempt.
    code, output = run.finish(store, environment={"ACCLIMATE_KILL_AT": "after_data_before_record:2"})
    assert code == -signal.SIGKILL and "resuming" in output, output
    code, output = run.finish(store)
    assert code == 0 and output.count("reused") == 5, output
    assert run.digests(*TRAINED) == unbroken[1]


def test_ranks_killed_again_and_again(unbroken: tuple[ToyRun, dict[str, str], str], tmp_path: Path) -> None:
    """Both ranks die after the 25th optimizer step of each of their lives: twice in 60 steps of CPT, once in SFT's 30."""
    run = before_training(unbroken[0], tmp_path)
    kill = {"ACCLIMATE_KILL_AT": "after_optimizer_step_before_checkpoint:25"}
    code, output = run.finish(f"store={run.store.root}", environment=kill)
    assert code == 0, output
    begun = [line for line in output.splitlines() if "goes on from the newest checkpoint" in line]
    groups = re.findall(r"group \d", "".join(begun))  # more where a start met a port in use
    assert groups.count("group 2") == 2 and "group 3" in groups, output
    assert run.digests(*TRAINED) == unbroken[1]


@pytest.mark.chaos  # of the kills of ranks, `test_ranks_killed_again_and_again` is in make test
def test_one_rank_killed_by_the_system(unbroken: tuple[ToyRun, dict[str, str], str], tmp_path: Path) -> None:
    run = before_training(unbroken[0], tmp_path)
    process = run.start(f"store={run.store.root}")
    run.wait_for_step(2)
    for child in psutil.Process(process.pid).children(recursive=True):
        if "RayTrainWorker" in " ".join(child.cmdline()):
            os.kill(child.pid, signal.SIGKILL)
            break
    else:
        pytest.fail("no rank was found to be killed")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "goes on from the newest checkpoint" in output, output
    assert run.digests(*TRAINED) == unbroken[1]


def test_a_frozen_rank_is_named_and_nothing_is_lost(
    unbroken: tuple[ToyRun, dict[str, str], str], tmp_path: Path
) -> None:
    run = before_training(unbroken[0], tmp_path)
    hang = "resources.hang_after_s=5"  # of both: CPT may be done before a rank is found
    process = run.start(f"store={run.store.root}", f"stages.cpt.{hang}", f"stages.sft.{hang}")
    run.wait_for_step(2)
    frozen = next(
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "RayTrainWorker" in " ".join(child.cmdline())
    )
    frozen.suspend()

    def said() -> list[str]:
        run_id = list_runs(run.store)[-1]["run_id"]
        return [event["message"] for _, event in read_events(run.store, run_id) if "silent for" in event["message"]]

    wait_for("the frozen rank to be named", said, 90)
    frozen.resume()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert f"(pid {frozen.pid})" in said()[0]
    assert run.digests(*TRAINED) == unbroken[1]


def test_a_stop_checkpoints_and_the_same_command_goes_on(
    unbroken: tuple[ToyRun, dict[str, str], str], tmp_path: Path
) -> None:
    run = before_training(unbroken[0], tmp_path)
    store = f"store={run.store.root}"
    process = run.start(store, "stages.cpt.checkpoints.every_steps=1")
    run.wait_for_step(1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    if process.returncode == 0:
        pytest.fail(f"the run ended before it heard the stop: {output}")
    assert process.returncode == 130, output
    assert "the same command goes on from there" in output
    stopped = list_runs(run.store)[-1]
    assert stopped["status"] == "cancelled" and "at a step boundary" in stopped["error"], stopped
    code, output = run.finish(store)
    assert code == 0 and "resuming" in output, output
    assert run.digests(*TRAINED) == unbroken[1]


def test_a_store_that_fails_now_and_then_changes_nothing(
    unbroken: tuple[ToyRun, dict[str, str], str], s3: S3Server, tmp_path: Path
) -> None:
    """On S3 over HTTP, where one request in about fifteen is answered 500, cut off or slow while both models are trained."""
    kinds = [
        Fault("GET|HEAD|PUT|POST", Action.STATUS, status=500), Fault("GET", Action.CUT_ANSWER),
        Fault("PUT", Action.CUT_REQUEST), Fault("PUT", Action.CUT_ANSWER), Fault("GET|PUT", Action.SLOW, delay_s=2.0),
        Fault("GET|HEAD|PUT|POST", Action.STATUS, status=503),
    ]  # fmt: skip
    draw = random.Random(7)
    with fault_proxy(s3.url) as proxy, pytest.MonkeyPatch.context() as environment:
        for name, value in s3_environment(proxy.url).items():
            environment.setenv(name, value)
        beside = before_training(unbroken[0], tmp_path)
        run = ToyRun(beside.config, Store(f"s3://{s3.new_bucket()}/store"))
        copy_artifacts(beside.store, run.store)
        for _ in range(60):
            proxy.add(replace(draw.choice(kinds), first=draw.randrange(1, 1500)))
        code, output = run.finish(f"store={run.store.root}")
        assert code == 0, output
        assert sum(proxy.hits()) > 20
        proxy.clear()
        assert run.digests(*TRAINED) == unbroken[1]
