"""`plan --on`: a cluster nobody has, a model nobody has fetched; and the memory of ranks under a plan."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import jobs.preflight.ppo
from tests.world.command import acclimate
from tests.world.toy_ppo import write_toy_ppo
from tests.world.toy_run import CHECKOUT, ToyRun

CONFIG = str(CHECKOUT / "configs" / "ppo_gpus.yaml")
BASE = "stages.base.source=" + str(CHECKOUT / "configs" / "shapes" / "llama-2-7b")
LARGE = "stages.base.source=" + str(CHECKOUT / "configs" / "shapes" / "llama-3-70b")


@pytest.fixture
def toy(tmp_path: Path) -> ToyRun:
    return write_toy_ppo(tmp_path / "toy", str(tmp_path / "store"))


def on(*arguments: str) -> dict[str, Any]:
    answer = acclimate("plan", CONFIG, "--json", *arguments)
    assert answer.code == 0, answer.stderr
    return json.loads(answer.stdout)


def test_seven_billion_on_eight_gpus() -> None:
    document = on(BASE, "--on", "8xH100")
    assert document["on"] == "8xH100" and "not run" in document["how"]
    reward, ppo = document["stages"]
    assert (reward["name"], ppo["name"]) == ("reward", "ppo") and ppo["parameters"] == 6_738_415_616
    asked = ppo["resources"]
    gpus = [role["ranks"] * role["gpus_per_rank"] for role in asked.values() if isinstance(role, dict)]
    assert sum(gpus) <= 8 and asked["placement"] == "separate"
    assert all(total <= ppo["usable_per_gpu"] for total in ppo["total_per_gpu"].values())
    assert 10 < ppo["step_overlapped_s"] <= ppo["step_s"] < 1000
    assert ppo["sync_bytes"] == 2 * 6_738_415_616


def test_the_resources_it_names_are_a_layout_of_their_own(tmp_path: Path) -> None:
    """Said to the stage, they are calculated as they are, and cost the same."""
    found = on(BASE, "--on", "8xH100")["stages"][1]
    overrides = [f"stages.ppo.resources={json.dumps(found['resources'])}"]
    again = on(BASE, "--on", "8xH100", *overrides)["stages"][1]
    assert found["searched"] and not again["searched"]
    assert {**again, "searched": True} == found


def test_what_does_not_fit_is_refused_with_what_it_needs() -> None:
    answer = acclimate("plan", CONFIG, LARGE, "--on", "8xH100", "--json")
    assert answer.code == 3 and answer.stdout == ""
    for told in (
        "stages.reward does not fit on 8xH100", "stages.ppo does not fit on 8xH100", "GPUs are needed (policy ", "Use `lora`",
        "grpo or rloo", "take more GPUs",
    ):  # fmt: skip
        assert told in answer.stderr, answer.stderr
    some = acclimate("plan", CONFIG, BASE, "--on", "4xH100", "--json")
    assert some.code == 3 and "stages.ppo does not fit on 4xH100" in some.stderr and "stages.reward" not in some.stderr
    assert on(LARGE, "--on", "64xH100")["stages"][1]["parameters"] == 70_553_706_496


def test_for_people(toy: ToyRun) -> None:
    answer = acclimate("plan", str(toy.config), "--on", "2xA100", "stages.ppo.algorithm.estimator=grpo", "stages.ppo.critic=null",
                       "stages.ppo.algorithm.kl.where=none", 'stages.ppo.rewards=[{"function": "a:b"}]')  # fmt: skip
    assert answer.code == 0, answer.stderr
    for told in (
        "not run",
        "policy",
        "rollout",
        "weight sync",
        "its longest part",
        "resources: {",
        "mean_answer_share 0.5",
    ):
        assert told in answer.stdout, answer.stdout
    assert "critic" not in answer.stdout and not Path(toy.store.root).exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--on", "8xB300"), "known: H100, H200, A100"),
        (("--on", "8xH100", "--assume", "mfu=0.5"), "there is no 'mfu'; known: compute_share"),
        (("--assume", "compute_share=0.5"), "say --on too"),
        (("--on", "8xH100", "stages.base.source=hf:meta/model@" + "0" * 40), "--on fetches nothing"),
        (("--on", "8xH100", "stages.base.source=/nowhere"), "there is no such directory"),
        (("--on", "8xH100", "stages.ppo.resources.policy.gpus_per_rank=1"), "critic, reference, reward_0, rollout would have 0"),
    ],
)  # fmt: skip
def test_what_can_be_got_wrong(toy: ToyRun, arguments: tuple[str, ...], told: str) -> None:
    answer = acclimate("plan", str(toy.config), *arguments)
    assert answer.code == 2 and " ".join(answer.stderr.split()).find(told) >= 0, answer.stderr


def test_a_plan_says_what_every_rank_will_hold(toy: ToyRun) -> None:
    document = json.loads(acclimate("plan", str(toy.config), "--json").stdout)
    shares = {row["name"]: {share["role"]: share for share in row["memory"]} for row in document["stages"]}
    assert set(shares["ppo"]) == {"policy", "critic", "reference", "reward_0", "rollout"}
    assert set(shares["reward"]) == {"reward"} and shares["base"] == {}
    assert shares["ppo"]["rollout"]["rank"]["kv_cache"] == 0.25 * 2**30
    policy = shares["ppo"]["policy"]
    assert (
        policy["rank"]["moments"]
        == 2 * policy["rank"]["gradients"]
        > 0
        == shares["ppo"]["reference"]["rank"]["moments"]
    )
    assert policy["total_bytes"] == pytest.approx(sum(policy["rank"].values()))
    answer = acclimate("plan", str(toy.config))
    assert answer.code == 0 and "memory (calculated)" in answer.stdout and "reward_0" in answer.stdout


GOLD = 'stages.ppo.heldout={"prompts": 2, "every_steps": 1, "gold": {"model": "reward"}}'


def test_a_gold_reward_model_is_given_what_rewards_are(toy: ToyRun) -> None:
    document = json.loads(acclimate("plan", str(toy.config), GOLD, "--json").stdout)
    roles = [share["role"] for row in document["stages"] if row["name"] == "ppo" for share in row["memory"]]
    assert roles == ["policy", "critic", "reference", "reward_0", "gold", "rollout"]
    answer = acclimate("plan", str(toy.config), GOLD, "--on", "8xA100", "--json")
    assert answer.code == 0, answer.stderr
    found = next(stage for stage in json.loads(answer.stdout)["stages"] if stage["name"] == "ppo")
    assert "gold" in found["memory_per_gpu"] and "gold" not in found["resources"]
    again = acclimate("plan", str(toy.config), GOLD, "--on", "8xA100", "--json",
                      f"stages.ppo.resources={json.dumps(found['resources'])}")  # fmt: skip
    assert again.code == 0, again.stderr


def test_a_ppo_stage_larger_than_this_machine_is_refused(toy: ToyRun) -> None:
    answer = acclimate("plan", str(toy.config), "stages.ppo.resources.rollout.kv_cache_gib=100000")
    told = " ".join(answer.stderr.split())
    assert answer.code == 3 and answer.stdout == ""
    assert (
        "stages.ppo needs about" in told
        and "lower rollout.kv_cache_gib (now 100000)" in told
        and "rollout 1 x 1e+05" in told
    )


def test_a_reward_model_of_another_base_is_found_before_it_is_trained(toy: ToyRun) -> None:
    values = yaml.safe_load(toy.config.read_text())
    others = toy.config.parent / "others"
    stages = values["stages"]
    base, *later = stages
    values["stages"] = {base: stages[base], "other": {**stages[base], "source": str(others)}}
    values["stages"] |= {name: stages[name] for name in later}
    for name in ("pairs", "reward"):
        stages[name]["model"] = "other"
    toy.config.write_text(yaml.safe_dump(values, sort_keys=False))
    shutil.copytree(toy.config.parent / "model", others)
    tokenizer = others / "tokenizer.json"
    tokenizer.write_text(json.dumps(json.loads(tokenizer.read_text()), indent=None))
    assert acclimate("plan", str(toy.config)).code == 0, "the same tokens in a file of other bytes"
    tokenizer.write_text(tokenizer.read_text().replace('"<|end|>"', '"<|stop|>"'))
    config = others / "tokenizer_config.json"
    config.write_text(config.read_text().replace("<|end|>", "<|stop|>"))
    answer = acclimate("plan", str(toy.config))
    told = " ".join(answer.stderr.split())
    assert answer.code == 2 and "stages.ppo.critic: reward has another vocabulary than base" in told, told


@pytest.mark.parametrize(
    ("shards", "rows", "told"),
    [
        ("prompts", "messages", "stages.ppo.shards: prompts has `rows: messages`, a ppo stage learns from `rows: prompts`"),
        ("pairs", "prompts", "stages.reward.shards: pairs has `rows: prompts`, a reward stage learns from `rows: preferences`"),
    ],
)  # fmt: skip
def test_rows_of_another_kind_are_found_before_they_are_made(toy: ToyRun, shards: str, rows: str, told: str) -> None:
    answer = acclimate("plan", str(toy.config), f"stages.{shards}.rows={rows}")
    assert answer.code == 2 and told in " ".join(answer.stderr.split()), answer.stderr


def test_a_cache_that_holds_no_answer_is_refused(toy: ToyRun) -> None:
    """Of 140 tokens, in blocks of 128; the number it names is enough."""
    cache = "stages.ppo.resources.rollout.kv_cache_gib="
    answer = acclimate("plan", str(toy.config), cache + "1e-6")
    told = " ".join(answer.stderr.split())
    assert answer.code == 3 and answer.stdout == ""
    found = re.search(r"does not hold one prompt of prompts and its answer \(140 tokens\): set (\S+) or more", told)
    assert found, told
    assert acclimate("plan", str(toy.config), cache + found[1]).code == 0


def test_on_gpus_of_this_machine_the_fullest_counts(toy: ToyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus = [
        f"stages.ppo.resources.{role}.gpus_per_rank=1"
        for role in ("policy", "critic", "reference", "reward", "rollout")
    ]
    asked = ("plan", str(toy.config), "stages.ppo.resources.placement=separate", "cluster.logical_cpus=8", *with_gpus)
    for gpu_bytes, code in ((None, 0), (80 << 30, 0), (1 << 20, 3)):
        monkeypatch.setattr(jobs.preflight.ppo, "_gpu_bytes", lambda gpu_bytes=gpu_bytes: gpu_bytes)
        answer = acclimate(*asked)
        assert answer.code == code, answer.stderr
    told = " ".join(answer.stderr.split())
    assert (
        "on the fullest GPU, a GPU of this machine has 0.0 GiB" in told and "give policy and critic more ranks" in told
    )
