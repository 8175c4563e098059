"""Config files: what a user may get wrong is answered with file, line, key and the nearest valid key."""

import json
import re
from pathlib import Path

import pytest

from configs.loader import ConfigError, load_run, schema
from configs.schema.training import LanguageModelStage
from configs.schema.tree import hashed_values

BASE = """\
name: toy
seed: 3
stages:
  base:
    stage: model
    source: somewhere
  papers:
    stage: corpus
    sources:
      local: {path: "data/*.jsonl", format: jsonl, licence: CC-BY-4.0}
  rows:
    stage: shards
    corpus: papers
    model: base
    rows: text
  cpt:
    stage: cpt
    model: base
    shards: rows
    steps: 4
    optimizer:
      learning_rate: 2e-5
"""


def write(tmp_path: Path, text: str, name: str = "run.yaml") -> str:
    file = tmp_path / name
    file.write_text(text)
    return str(file)


def test_a_run_file_becomes_a_frozen_tree(tmp_path: Path) -> None:
    run = load_run(write(tmp_path, BASE)).run
    cpt = run.stages["cpt"]
    assert isinstance(cpt, LanguageModelStage)
    assert cpt.optimizer.learning_rate == 2e-5
    assert cpt.steps == 4
    with pytest.raises(ValueError, match="frozen"):
        cpt.steps = 5  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("line", "replacement", "expected"),
    [
        ("      learning_rate: 2e-5", "      learning_rte: 2e-5", r"run.yaml:22: unknown key `stages.cpt.optimizer.learning_rte`; did you mean `learning_rate`"),
        ("    steps: 4", "    step: 4", r"run.yaml:20: unknown key `stages.cpt.step`; did you mean `steps`"),
        ("    model: base\n    shards", "    model: bse\n    shards", r"stages.cpt.model: no earlier stage is called 'bse'"),
        ("    steps: 4", "    steps: 4\n    resources: {tensor_parallel_size: 2}", r"run.yaml:21: `stages.cpt.resources`: tensor_parallel_size is not supported: .* cut over `ranks`"),
        ("    shards: rows", "    shards: papers", r"'papers' is a corpus stage, needed: shards"),
        ("    steps: 4", "    steps: four", r"run.yaml:20: `stages.cpt.steps`: Input should be a valid integer"),
        ("seed: 3", "seed: 3\nseed: 4", r"run.yaml:3: `seed` is given twice"),
        ("    stage: cpt", "    stage: ctp", r"run.yaml:17: `stages.cpt.stage`: no stage is of the kind 'ctp'; did you mean `cpt`"),
        ("    stage: cpt", "    stage: finetune", r"run.yaml:17: `stages.cpt.stage`: no stage is of the kind 'finetune'; valid here: .*cpt, dpo"),
        ("    stage: cpt\n", "", r"run.yaml:16: `stages.cpt` lacks `stage:`, its kind: .*cpt, dpo"),
        ("    rows: text\n", "", r"`stages.rows.rows`: Field required"),
        ("format: jsonl", "format: jsonl, licens: x", r"run.yaml:10: unknown key `stages.papers.sources.local.licens`; did you mean `licence`"),
        ("name: toy", "name: toy\nstorre: x", r"run.yaml:2: unknown key `storre`; did you mean `store`"),
    ],
)  # fmt: skip
def test_errors_name_the_place_and_the_remedy(tmp_path: Path, line: str, replacement: str, expected: str) -> None:
    assert line in BASE
    with pytest.raises(ConfigError, match=expected):
        load_run(write(tmp_path, BASE.replace(line, replacement)))


def test_extends_merges_deeply_and_replaces_lists(tmp_path: Path) -> None:
    write(tmp_path, BASE, "base.yaml")
    text = "extends: base.yaml\nseed: 9\nstages:\n  cpt:\n    steps: 7\n"
    run = load_run(write(tmp_path, text)).run
    cpt = run.stages["cpt"]
    assert isinstance(cpt, LanguageModelStage)
    assert (run.seed, cpt.steps, cpt.optimizer.learning_rate) == (9, 7, 2e-5)


def test_an_error_in_a_base_names_the_base(tmp_path: Path) -> None:
    write(tmp_path, BASE.replace("steps: 4", "stepps: 4"), "base.yaml")
    with pytest.raises(ConfigError, match=r"base.yaml:20: unknown key"):
        load_run(write(tmp_path, "extends: base.yaml\nseed: 9\n"))


def test_extends_in_a_circle_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "extends: b.yaml\n", "a.yaml")
    write(tmp_path, "extends: a.yaml\n", "b.yaml")
    with pytest.raises(ConfigError, match="leads back"):
        load_run(str(tmp_path / "a.yaml"))


def test_overrides_win_and_are_named_in_errors(tmp_path: Path) -> None:
    file = write(tmp_path, BASE)
    cpt = load_run(file, ("stages.cpt.steps=11", "stages.cpt.optimizer.learning_rate=1e-4")).run.stages["cpt"]
    assert isinstance(cpt, LanguageModelStage)
    assert (cpt.steps, cpt.optimizer.learning_rate) == (11, 1e-4)
    with pytest.raises(ConfigError, match=r"override 'stages.cpt.stepz=1': unknown key .* did you mean `steps`"):
        load_run(file, ("stages.cpt.stepz=1",))
    with pytest.raises(
        ConfigError, match=r"override 'stages.ctp.steps=5': there is no stage `ctp`; did you mean `cpt`"
    ):
        load_run(file, ("stages.ctp.steps=5",))
    with pytest.raises(ConfigError, match=r"there is no stage `tuning`; stages are: base, papers, rows, cpt"):
        load_run(file, ("stages.tuning.steps=5",))
    with pytest.raises(ConfigError, match="expected dotted.key=value"):
        load_run(file, ("steps",))


def test_what_is_recorded_only_does_not_enter_the_key(tmp_path: Path) -> None:
    file = write(tmp_path, BASE)
    four = load_run(file, ("stages.cpt.resources.ranks=4", "stages.cpt.micro_batch_tokens=64")).run.stages["cpt"]
    other = load_run(file, ("stages.cpt.steps=5",)).run.stages["cpt"]
    one = load_run(file).run.stages["cpt"]
    assert hashed_values(one) == hashed_values(four)
    assert hashed_values(one) != hashed_values(other)


def test_the_schema_is_json_and_knows_every_stage() -> None:
    text = json.dumps(schema())
    for kind in ("model", "corpus", "shards", "cpt", "sft", "evaluate", "report"):
        assert f'"{kind}"' in text


def test_a_rule_over_several_stages_names_the_line_of_its_key(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "name: x\nstages:\n  base: {stage: model, source: m}\n  cpt:\n    stage: cpt\n    model: base\n    shards: base\n    steps: 1\n"
    )
    with pytest.raises(ConfigError, match=r"run.yaml:7: stages.cpt.shards: 'base' is a model stage, needed: shards"):
        load_run(str(file))


@pytest.mark.parametrize(
    ("line", "replacement", "expected"),
    [
        ("steps: 4", "steps: !foo 4", r"run.yaml:20: `stages.cpt.steps` has the tag !foo"),
        ("steps: 4", "steps: !!int abc", r"run.yaml:20: `stages.cpt.steps`: 'abc' is read as !!int"),
        ("seed: 3", "seed: 2024-13-45", r"run.yaml:2: `seed`: '2024-13-45' is read as !!timestamp"),
        ("seed: 3", "seed: &a {b: *a}", r"run.yaml:2: `seed.b`: an alias to what it lies in"),
        ("seed: 3", "seed: &a [1, *a]", r"run.yaml:2: `seed.1`: an alias to what it lies in"),
        ("optimizer:", "optimizer: !foo", r"run.yaml:21: `stages.cpt.optimizer` has the tag !foo"),
        ("seed: 3", "? [a, b]\n: 3", r"run.yaml:2: a key of `the file` is a list or mapping"),
        ("seed: 3", "seed: " + "[" * 5000, r"run.yaml: cannot be read as YAML"),
    ],
)
def test_yaml_that_has_no_value_names_its_line(tmp_path: Path, line: str, replacement: str, expected: str) -> None:
    assert line in BASE
    with pytest.raises(ConfigError, match=expected):
        load_run(write(tmp_path, BASE.replace(line, replacement)))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed=4294967296", "less than or equal to 4294967295"),
        ("stages.cpt.steps=true", "valid integer"),
        ("stages.cpt.steps='6'", "valid integer"),
        ("stages.cpt.steps=6.5", "valid integer"),
        ("stages.cpt.optimizer.learning_rate=.inf", "finite number"),
        ("stages.cpt.optimizer.learning_rate=.nan", "finite number"),
        ("stages.cpt.optimizer.learning_rate=1e999", "finite number"),
        ("stages.cpt.optimizer.learning_rate='1'", "valid number"),
        ("stages.papers.partitions=10000000", "less than or equal to 100000"),
        ("stages.rows.shards=10000000", "less than or equal to 100000"),
        ("cluster.address=nonsense", "'nonsense' is not an address: give `local`, `auto` or HOST:PORT"),
        ("cluster.address='ray://head:10001'", "HOST:PORT"),
    ],
)
def test_values_that_would_fail_later_are_refused(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(
        ConfigError, match=re.escape(f"override {override!r}: `{override.partition('=')[0]}`: ")
    ) as error:
        load_run(write(tmp_path, BASE), (override,))
    assert said in str(error.value)


def test_whole_numbers_do_for_fractions_and_powers_of_ten_for_whole_numbers(tmp_path: Path) -> None:
    overrides = (
        "stages.cpt.optimizer.learning_rate=1", "stages.cpt.steps=1e3", "seed=4294967295", "cluster.address=head:6379",
    )  # fmt: skip
    run = load_run(write(tmp_path, BASE), overrides).run
    cpt = run.stages["cpt"]
    assert isinstance(cpt, LanguageModelStage)
    assert (cpt.optimizer.learning_rate, cpt.steps, run.seed, run.cluster.address) == (
        1.0,
        1000,
        2**32 - 1,
        "head:6379",
    )


@pytest.mark.parametrize("override", ["seed=!x 3", "seed=2024-13-45", "seed=&a [*a]"])
def test_an_override_without_a_value_is_named(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"override {override!r}")):
        load_run(write(tmp_path, BASE), (override,))


def test_an_alias_that_ends_is_read(tmp_path: Path) -> None:
    text = BASE.replace("seed: 3", "seed: &n 3").replace("steps: 4", "steps: *n")
    assert load_run(write(tmp_path, text), ()).run.stages["cpt"].steps == 3  # pyright: ignore[reportAttributeAccessIssue]


def test_a_key_that_is_called_as_its_kind_of_stage_is(tmp_path: Path) -> None:
    """`shards` is a kind of stage and one of its keys; a mistake beside it is found at its own line."""
    config = tmp_path / "run.yaml"
    text = "name: toy\nstages:\n  rows:\n    stage: shards\n    corpus: papers\n    model: base\n    rows: text\n    shards: 2\n"
    for wrong, said in (
        ("    contxt: 128\n", "run.yaml:9: unknown key `stages.rows.contxt`; did you mean `context`?"),
        ("    context: many\n", "run.yaml:9: `stages.rows.context`: Input should be a valid integer"),
    ):
        config.write_text(text + wrong)
        with pytest.raises(ConfigError) as refused:
            load_run(str(config))
        assert said in str(refused.value)
