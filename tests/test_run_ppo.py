"""Whole runs of PPO from the command line, every role a process of its own: unbroken, killed at every named place, frozen."""

import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from cluster import kill_points
from cluster.storage import Store
from tests.world.command import acclimate
from tests.world.conditions import wait_for
from tests.world.toy_ppo import REWARD, samples_of, toy_ppo_stage, weights_of, write_toy_ppo
from tests.world.toy_run import ToyRun, copy_artifacts

pytestmark = [pytest.mark.cluster, pytest.mark.vllm, pytest.mark.timeout(1200)]

STEPS, PROMPTS, ANSWERS = 5, 6, 2


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> ToyRun:
    directory = tmp_path_factory.mktemp("ppo")
    heldout = {"every_steps": 2, "prompts": 4, "gold": REWARD}
    # At a tenth of the rate the last update would be too small for the probe to tell the weights apart.
    optimizer = {"final_rate_fraction": 0.5}
    run = write_toy_ppo(directory, str(directory / "store"), steps=STEPS, heldout=heldout, optimizer=optimizer)
    code, output = run.finish(timeout_s=540)
    assert code == 0, output
    return run


def before_ppo(unbroken: ToyRun, tmp_path: Path, **changes: Any) -> ToyRun:
    """The same run in a store of its own, where everything but the ppo stage is done; `changes` go into that stage."""
    tmp_path.mkdir(exist_ok=True)
    store = Store(str(tmp_path / "store"))
    copy_artifacts(unbroken.store, store, "ppo")
    values = yaml.safe_load(unbroken.config.read_text())
    if changes:
        values["stages"]["ppo"] = toy_ppo_stage(**changes)
    config = tmp_path / "ppo.yaml"
    config.write_text(yaml.safe_dump({**values, "store": store.root}, sort_keys=False))
    return ToyRun(config, store)


def steps_of(run: ToyRun) -> list[dict[str, float]]:
    return [entry for entry in run.artifact("ppo").content.read_json("history.json") if "reward/score" in entry]


def require_every_answer_once(run: ToyRun, steps: int) -> None:
    """Of every step every answer to every prompt stands in the samples, and stands there once."""
    rows = [row for name, found in samples_of(run).items() if name.startswith("step-") for row in found]
    places = sorted((row["step"], row["prompt"], row["sample"]) for row in rows)
    assert places == [(t, p, s) for t in range(1, steps + 1) for p in range(PROMPTS) for s in range(ANSWERS)]


def require_equal(run: ToyRun, unbroken: ToyRun) -> None:
    """To the bit: weights, and every answer with all that was sampled and judged."""
    require_every_answer_once(run, STEPS)
    assert samples_of(run) == samples_of(unbroken)
    assert weights_of(run) == weights_of(unbroken)


def test_every_role_takes_part_and_every_answer_is_kept(unbroken: ToyRun) -> None:
    steps = steps_of(unbroken)
    assert [entry["step"] for entry in steps] == [1, 2, 3, 4, 5]
    # The policy begins at its reference, and its sampler computes what it computes.
    assert steps[0]["kl/per_answer"] == 0 and steps[1]["kl/per_answer"] != 0
    for entry in steps:
        assert entry["mismatch/max_delta"] < 1e-4  # nats of a token, fp32
        assert entry["sync/mismatch"] < 1e-3 and entry["sync/position"] == pytest.approx(1, abs=0.01)
        assert entry["value/explained_variance"] < 1 and entry["grad_norm"] > 0 and entry["value/grad_norm"] > 0
    samples = samples_of(unbroken)
    assert [name for name in sorted(samples) if name.startswith("heldout")] == [
        "heldout-000000.parquet", "heldout-000002.parquet", "heldout-000004.parquet", "heldout-000005.parquet",
    ]  # fmt: skip
    require_every_answer_once(unbroken, STEPS)
    for entry in steps:
        rows = samples[f"step-{int(entry['step']):06d}.parquet"]
        assert {row["version"] for row in rows} == {
            entry["step"] - 1
        }  # synchronous: each batch is of the newest weights
        mean = sum(row["score"] for row in rows) / len(rows)
        assert entry["reward/score"] == pytest.approx(mean)
    for rows in (samples["heldout-000000.parquet"], samples["heldout-000005.parquet"]):
        assert len(rows) == 8 and all(row["gold"] == row["score"] for row in rows)  # one model is both here
    assert unbroken.artifact("ppo").record["licences"] == ["Apache-2.0", "CC0-1.0"]


def test_samples_shows_the_best_and_the_worst_answers_of_a_step(unbroken: ToyRun) -> None:
    kept = samples_of(unbroken)
    for flags, name in (
        ((), "step-000005.parquet"),
        (("--step", "1"), "step-000001.parquet"),
        (("--heldout",), "heldout-000005.parquet"),
    ):
        shown = acclimate("samples", "toyppo", *flags, "--store", unbroken.store.root, "--json")
        assert shown.code == 0, shown.stderr
        listed = json.loads(shown.stdout)["samples"]
        assert [row["score"] for row in listed] == sorted((row["score"] for row in kept[name]), reverse=True)
    table = acclimate("samples", "ppo", "--rows", "2", "--store", unbroken.store.root)
    assert table.code == 0 and "12 answers, best and worst" in table.stdout and "cut off" in table.stdout
    missing = acclimate("samples", "toyppo", "--step", "9", "--store", unbroken.store.root)
    assert missing.code == 2 and "there are steps 1 to 5" in missing.stderr


def killing(tmp_path: Path, *places: str) -> dict[str, str]:
    """The environment in which one process dies at each place."""
    killed = tmp_path / "killed"
    killed.mkdir(exist_ok=True)
    return {kill_points.ENVIRONMENT: ",".join(places), kill_points.KILLED: str(killed)}


def killed_at(tmp_path: Path) -> set[str]:
    return {file.name for file in (tmp_path / "killed").iterdir()}


DRIVER_DIES = ("ppo_sampled:2", "ppo_updated:2", "ppo_saving:2", "after_data_before_record:1")
"""Each in the first life in which it is reached so often, hence in this order."""
ACTORS_DIE = (
    "ppo_sampling:2",  # the sampler: held-out prompts before the first step, between their two units
    "ppo_sampling:4",  # its successor: step 1, whose answers are in part there
    "ppo_syncing:1",  # and the next: it has new weights in part
    "ppo_scoring/reference:3",  # step 2
    "ppo_learning/critic:6",  # its second life, step 3: two of four optimizer steps are done
    "ppo_announcing/policy:3",  # step 4: updated, its weights are on their way
    "inside_upload/critic:2",  # step 5: the policy's checkpoint is written, the critic's is not
    "inside_export/policy:1",
)  # fmt: skip
"""Counted by each process for itself; the first three cost an engine, the others all that was learnt since a checkpoint."""
ENGINES_LOST = 3


def driver_dies(unbroken: ToyRun, tmp_path: Path, *places: str) -> None:
    run, environment = before_ppo(unbroken, tmp_path), killing(tmp_path, *places)
    for life, place in enumerate(places, start=1):
        code, output = run.finish(environment=environment, timeout_s=300)
        assert code == -signal.SIGKILL, output
        assert killed_at(tmp_path) == {kill_points.file_of(place) for place in places[:life]}, place
    code, output = run.finish(environment=environment, timeout_s=300)
    assert code == 0, output
    assert "resuming" in output
    require_equal(run, unbroken)


def actors_die(unbroken: ToyRun, tmp_path: Path, *places: str, engines: int) -> None:
    run = before_ppo(unbroken, tmp_path)
    code, output = run.finish(
        "stages.ppo.checkpoints.max_failures=5", environment=killing(tmp_path, *places), timeout_s=600
    )
    assert code == 0, output
    assert killed_at(tmp_path) == {kill_points.file_of(place) for place in places}
    said = " ".join(output.split())
    assert said.count("starting engines again") == engines
    assert said.count("going on from the last checkpoint") == len(places) - engines
    require_equal(run, unbroken)


def test_a_driver_killed_between_update_and_checkpoint_goes_on_to_the_same_bits(
    unbroken: ToyRun, tmp_path: Path
) -> None:
    driver_dies(unbroken, tmp_path, "ppo_updated:2")


def test_killed_actors_are_replaced_and_the_bits_are_the_same(unbroken: ToyRun, tmp_path: Path) -> None:
    """An engine with new weights in part, and a critic whose policy has written its part of a checkpoint."""
    actors_die(unbroken, tmp_path, "ppo_syncing:1", "inside_upload/critic:2", engines=1)


@pytest.mark.chaos
def test_a_driver_killed_at_every_place_goes_on_to_the_same_bits(unbroken: ToyRun, tmp_path: Path) -> None:
    driver_dies(unbroken, tmp_path, *DRIVER_DIES)


@pytest.mark.chaos
def test_actors_killed_at_every_place_are_replaced_and_the_bits_are_the_same(unbroken: ToyRun, tmp_path: Path) -> None:
    actors_die(unbroken, tmp_path, *ACTORS_DIE, engines=ENGINES_LOST)


def actor_of(driver: int, role: str) -> psutil.Process | None:
    """The process of an actor class below a driver."""
    for child in psutil.Process(driver).children(recursive=True):
        try:
            if child.name().startswith("ray::") and f"ray::{role}" in " ".join(child.cmdline()):
                return child
        except psutil.NoSuchProcess:
            continue
    return None


WITH_A_FUNCTION: dict[str, Any] = {
    "rewards": [{"function": "jobs.ppo.example_rewards:brevity"}], "critic": None, "staleness": 1,
    "algorithm": {"estimator": "grpo", "kl": {"where": "none"}, "rewards": {"missing_end_penalty": 0}},
}  # fmt: skip
"""A function as reward needs no other model; the sampler is a step ahead."""


def require_no_other_model(run: ToyRun, steps: int) -> None:
    samples = samples_of(run)
    require_every_answer_once(run, steps)
    # One step behind: the second batch was sampled while the first was learnt from.
    assert {row["version"] for row in samples["step-000002.parquet"]} == {0}
    assert {row["version"] for row in samples["step-000003.parquet"]} == {1}
    assert all("value/loss" not in entry and "kl/per_answer" not in entry for entry in steps_of(run))


def test_a_function_as_reward_loads_no_other_model(unbroken: ToyRun, tmp_path: Path) -> None:
    run = before_ppo(unbroken, tmp_path, **WITH_A_FUNCTION, steps=40)
    process = run.start()
    run.wait_for_step(1, timeout_s=200)
    assert {role for role in ROLES if actor_of(process.pid, role)} == {"Sampler", "FunctionScorer", "Policy"}
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    require_no_other_model(run, steps=40)


ROLES = ("Policy", "Critic", "Scorer", "Sampler", "FunctionScorer")
FROZEN = {"Sampler": "rollout", "FunctionScorer": "reward_0", "Policy": "policy"}


@pytest.mark.chaos  # its time-out of 12 s wants a machine that has nothing else to do
def test_the_frozen_are_named_and_replaced_and_no_prompt_is_lost_or_doubled(unbroken: ToyRun, tmp_path: Path) -> None:
    """A step behind, what is done again may be answered otherwise: bits are not asked for."""
    run = before_ppo(
        unbroken, tmp_path, **WITH_A_FUNCTION, steps=60,
        checkpoints={"every_steps": 1, "max_failures": 12}, resources={"step_timeout_s": 12},
    )  # fmt: skip
    process = run.start()
    try:
        output = freeze_one_after_another(run, process)
    finally:
        process.kill()
    assert process.returncode == 0, output
    said = " ".join(output.split())
    for role in FROZEN.values():
        assert re.search(rf"actor was lost \([^()]*: {role} on 127\.0\.0\.2[^()]* for 12 s", said), said
    require_no_other_model(run, steps=60)


def freeze_one_after_another(run: ToyRun, process: "subprocess.Popen[str]") -> str:
    """Each of FROZEN once the one before was replaced, from step 3 on; what the run printed."""
    step = 3
    for role in FROZEN:
        run.wait_for_step(step, timeout_s=200)
        assert actor_of(process.pid, "Critic") is None and actor_of(process.pid, "Scorer") is None
        frozen = wait_for(f"an actor {role}", lambda role=role: actor_of(process.pid, role), 30)
        frozen.suspend()
        wait_for(f"the frozen {role} to be ended", lambda frozen=frozen: not frozen.is_running(), 120)
        step = newest_step(run) + 1
    output, _ = process.communicate(timeout=300)
    return output


def newest_step(run: ToyRun) -> int:
    names = [info.name for info in run.store.files("artifacts") if info.name.endswith("checkpoint.json")]
    return max(int(name.split("step-")[1].split("/")[0]) for name in names)


def with_adapters(unbroken: ToyRun, directory: Path, reference_is_base: bool) -> ToyRun:
    """Of three steps, in the first of which only the critic learns; measured after each."""
    run = before_ppo(
        unbroken, directory, lora={"rank": 4}, reference_is_base=reference_is_base, critic=None,
        algorithm={"critic_warmup_steps": 1}, heldout={"every_steps": 1, "prompts": 4, "gold": REWARD},
    )  # fmt: skip
    code, output = run.finish(timeout_s=300)
    assert code == 0, output
    return run


def test_a_policy_with_adapters_is_its_own_reference(unbroken: ToyRun, tmp_path: Path) -> None:
    steps = steps_of(with_adapters(unbroken, tmp_path, reference_is_base=True))
    # The adapters learn once the critic has, and are off for the reference.
    assert [entry["learning_rate"] > 0 for entry in steps] == [False, True, True]
    assert [entry["kl/per_answer"] != 0 for entry in steps] == [False, False, True]
    assert all(entry["value/grad_norm"] > 0 for entry in steps)
    # A policy that has not learnt answers the same prompts with the same seeds as the start, and wins exactly half.
    assert steps[0]["heldout/win_rate"] == 0.5 and steps[0]["heldout/gold_change"] == 0
    assert steps[2]["heldout/kl_per_answer"] != 0


@pytest.mark.chaos
def test_a_loaded_reference_gives_the_same_bits(unbroken: ToyRun, tmp_path: Path) -> None:
    own, loaded = (with_adapters(unbroken, tmp_path / str(is_base), is_base) for is_base in (True, False))
    files = [run.artifact("ppo").content.read("adapter", "adapter_model.safetensors") for run in (own, loaded)]
    assert files[0] == files[1]
    assert samples_of(own) == samples_of(loaded)
