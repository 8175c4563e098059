"""A mix is a shards artifact like any other, of the rows of its inputs."""

import hashlib
import io
import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from cluster.artifacts import attempt
from cluster.storage import Store
from configs.schema.gate import Gate
from configs.schema.run import ModelStage, Run
from jobs.corpus.gate import sealed
from jobs.corpus.mix import check_mixable
from jobs.corpus.schema import INDEX_SCHEMA, DataError
from jobs.corpus.segments import read_tokenizer_files
from jobs.inspection.card import data_card
from jobs.inspection.mix_card import MixCard, mix_html
from jobs.models import import_model, resolve_source
from jobs.pipeline import plan_run
from jobs.preflight.origin import ContextTooLong
from jobs.preflight.rows import context_of
from jobs.preflight.stages import foresee
from jobs.train.reader import RowReader, read_index, verify_shards
from tests.corpus.mixes import CONTEXT, STAGE, entry, mixed, stored, three_inputs, write_shards
from tests.world.toy_run import ToyRun


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Store]:
    return three_inputs(tmp_path)


def test_a_mix_is_a_shards_artifact_of_the_rows_of_its_inputs(
    inputs: dict[str, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Store(str(tmp_path / "out"))
    summary, said = mixed(monkeypatch, inputs, output, **STAGE)
    rows = stored(output, "train")
    originals = {row["document_ids"][0]: row for store in inputs.values() for row in stored(store, "train")}
    for row in rows:
        original = originals.pop(row["document_ids"][0])
        assert {**original, "shard": row["shard"], "row": row["row"]} == row
        assert row["tokens"] == len(row["input_ids"])
    tokens = {name: sum(row["tokens"] for row in rows if row["source"] == name) for name in inputs}
    assert summary.shares == {name: round(tokens[name] / sum(tokens.values()), 4) for name in sorted(inputs)}
    for name, asked in {"papers": 0.7 * 0.95, "wiki": 0.3 * 0.95, "general": 0.05}.items():
        assert abs(tokens[name] - asked * sum(tokens.values())) <= CONTEXT
        assert summary.inputs[name].tokens == tokens[name] and summary.inputs[name].asked == pytest.approx(asked)
    assert (summary.train.rows, summary.train.tokens) == (len(rows), sum(tokens.values()))
    assert summary.scarcest == "papers" and summary.inputs["papers"].unused == 0 and summary.inputs["papers"].rows == 30
    assert len(said) == 1 and "raise stages.blend.repeat.papers (now 1;" in said[0] and "of wiki" in said[0]
    assert output.read_json("manifest.json")["shares"] == summary.shares
    verify_shards(output)
    heldout = read_index(output, "heldout")
    assert heldout.sources() == ["general", "papers", "wiki"] and Counter(heldout.source.tolist())["general"] == 1
    reader = RowReader(output, "train", 0, 4, 0, 1, 2 * CONTEXT)
    assert reader.read(0).examples == 4
    reader.close()


def digests(store: Store) -> dict[str, str]:
    """Of all files."""
    return {file.name: hashlib.sha256(store.read(file.name)).hexdigest() for file in store.files()}


def test_bytes_do_not_depend_on_the_order_of_rows_and_of_the_config(
    inputs: dict[str, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for order, shares in enumerate([{"papers": 0.7, "wiki": 0.3}, {"wiki": 0.3, "papers": 0.7}]):
        output = Store(str(tmp_path / str(order)))
        mixed(monkeypatch, inputs, output, order, **{**STAGE, "shares": shares, "repeat": {"papers": 2}})
        found.append(digests(output))
    assert found[0] == found[1]
    copies = Counter(row["document_ids"][0] for row in stored(Store(str(tmp_path / "0")), "train"))
    assert [copies[1000 * len("papers") + number] for number in range(30)] == [2] * 30


def test_texts_and_conversations_may_be_mixed_and_equal_sources_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path / "inputs"))
    inputs = {
        "texts": write_shards(store.below("texts"), "texts", 20),
        "tasks": write_shards(store.below("tasks"), "tasks", 20, rows="messages"),
    }
    for shards in inputs.values():
        for split in ("train", "heldout"):
            index = pq.read_table(io.BytesIO(shards.read(split, "index.parquet")))
            same = index.set_column(4, INDEX_SCHEMA.field("source"), pa.array(["pubmed"] * index.num_rows))
            manifest = shards.read_json("manifest.json")
            manifest["files"] |= entry(shards, f"{split}/index.parquet", same)
            manifest["gate"] = sealed(Gate(), {"public CC0-1.0": 20}, manifest["files"])
            shards.write_json("manifest.json", manifest)
    output = Store(str(tmp_path / "out"))
    summary, _ = mixed(monkeypatch, inputs, output, shares={"texts": 0.5, "tasks": 0.5})
    assert summary.rows == "mixed"
    assert read_index(output, "heldout").sources() == ["tasks.pubmed", "texts.pubmed"]


def test_what_does_not_fit_is_named(inputs: dict[str, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = {name: store.read_json("manifest.json") for name, store in inputs.items()}
    for key, value, said in (
        ("rows", "prompts", r"stages.blend: wiki has `rows: prompts`"),
        ("context", 32, r"stages.blend: papers has rows of 64 tokens and wiki of 32"),
        ("tokenizer_sha256", "u", r"stages.blend: wiki was made with another tokenizer or template than papers"),
    ):
        with pytest.raises(DataError, match=said):
            check_mixable("blend", inputs, {**manifests, "wiki": {**manifests["wiki"], key: value}})
    with pytest.raises(DataError, match="papers and wiki are the same rows"):
        check_mixable("blend", inputs | {"wiki": inputs["papers"]}, manifests)
    output = Store(str(tmp_path / "out"))
    with pytest.raises(DataError, match=r"wiki should have 0.001 of all tokens.*stages.blend.repeat.papers"):
        mixed(monkeypatch, inputs, output, shares={"papers": 0.999, "wiki": 0.001}, replay=None)
    name = "train/shard-00001.parquet"
    inputs["papers"].write(name, inputs["papers"].read(name)[:-1])
    with pytest.raises(DataError, match=f"{name} is damaged"):
        mixed(monkeypatch, inputs, output, **STAGE)
    assert not output.exists("manifest.json")


def finished(store: Store, key: str, count: int = 3, licence: str = "CC0-1.0", **manifest: Any) -> None:
    """An artifact of shards as a run would have left it."""
    with attempt(store, "shards", key) as own:
        content = write_shards(own.content, key, count, **manifest)
        counts = {"context": content.read_json("manifest.json")["context"]}
        parts = {"name": key, "parents": {}, "config": {}, "settings": {}, "counts": counts}
        own.commit({**parts, "licences": [licence]})


def test_shards_that_are_done_are_compared_before_anything_starts(tiny_model: Path, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    finished(store, "papers01")
    finished(store, "wiki0001", rows="messages")
    finished(store, "strange1", tokenizer_sha256="u")

    def foreseen(second: str, batch_tokens: int = CONTEXT) -> Run:
        blend = {"stage": "mix", "shares": {"artifact:papers01": 0.5, f"artifact:{second}": 0.5}}
        train = {"stage": "cpt", "model": "base", "shards": "blend", "steps": 1, "batch_tokens": batch_tokens}
        base = {"stage": "model", "source": str(tiny_model)}
        run = Run.model_validate({"name": "x", "stages": {"base": base, "blend": blend, "cpt": train}})
        foresee(run, plan_run(run, store), store)
        return run

    assert context_of(foreseen("wiki0001"), store, "blend") == CONTEXT
    with pytest.raises(DataError, match="artifact:strange1 was made with another tokenizer"):
        foreseen("strange1")
    with pytest.raises(ContextTooLong, match="32 tokens hold no row of blend, which has 64"):
        foreseen("wiki0001", 32)


def write_mixing_run(directory: Path, model: Path) -> ToyRun:
    """A run of seconds: texts and conversations that are there already are mixed with others, and two steps learnt from them."""
    run = ToyRun(directory / "mixing.yaml", Store(str(directory / "store")))
    base = ModelStage(stage="model", source=str(model), licence="Apache-2.0")
    import_model(base, resolve_source(str(model)), Store(str(directory)), lambda *_: None)
    tokens = {"tokenizer_sha256": read_tokenizer_files(Store(str(directory / "model"))).sha256}
    finished(run.store, "texts001", 30, **tokens)
    finished(run.store, "tasks001", 60, rows="messages", **tokens)
    finished(run.store, "general1", 60, licence="CC-BY-SA-4.0", **tokens)
    stages = {
        "base": base.model_dump(),
        "blend": {"stage": "mix", **BLEND},
        "cpt": {
            "stage": "cpt", "model": "base", "shards": "blend", "steps": 2, "batch_tokens": 4 * CONTEXT, "precision": "fp32",
            "micro_batch_tokens": 2 * CONTEXT, "heldout": {"every_steps": 2, "rows": 8}, "resources": {"ranks": 1},
        },
    }  # fmt: skip
    values = {"name": "mixing", "store": run.store.root, "tracking": "none", "stages": stages}
    run.config.write_text(yaml.safe_dump(values, sort_keys=False))
    return run


BLEND = {
    "shares": {"artifact:texts001": 0.6, "artifact:tasks001": 0.4},
    "replay": {"shards": "artifact:general1", "share": 0.2}, "shards": 2,
}  # fmt: skip
BLEND_IS_WRITTEN = {"ACCLIMATE_KILL_AT": "after_data_before_record:2"}
"""The second stage of the run, when all of its files are there and its record is not."""


@pytest.mark.cluster
def test_a_run_trains_on_a_mix_and_a_kill_changes_nothing(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_mixing_run(tmp_path, tiny_model)
    code, output = run.finish(environment=BLEND_IS_WRITTEN)
    assert code == -signal.SIGKILL and "artifact:texts001 is the scarcest" in output, output
    code, output = run.finish()
    assert code == 0 and output.count("reused") == 1, output
    blend = run.artifact("blend")
    assert f"shares {blend.record['counts']['shares']['artifact:general1']:.4f} artifact:general1, " in output
    assert blend.record["licences"] == ["CC-BY-SA-4.0", "CC0-1.0"] and blend.record["counts"]["rows"] == "mixed"
    assert run.artifact("cpt").record["licences"] == ["Apache-2.0", "CC-BY-SA-4.0", "CC0-1.0"]
    history = run.artifact("cpt").content.read_json("history.json")
    assert sum("loss" in entry for entry in history) == 2
    for source in ("texts001", "tasks001", "general1"):
        assert f"heldout/{source}/loss" in history[-1], history[-1]
    # Here, in another order of rows, the same bytes.
    inputs = {f"artifact:{name}": run.artifact(name).content for name in ("texts001", "tasks001", "general1")}
    mixed(monkeypatch, inputs, Store(str(tmp_path / "here")), **BLEND)
    assert digests(Store(str(tmp_path / "here"))) == digests(blend.content)
    check_card(run)


def check_card(run: ToyRun) -> None:
    """What the card says of the mix is what its files hold."""
    blend = run.artifact("blend")
    card = data_card(run.store, blend, documents=1, seed=0)
    assert isinstance(card, MixCard)
    tokens = Counter[str]()
    for row in stored(blend.content, "train"):
        tokens[row["source"]] += row["tokens"]
    assert {part.directory: (part.name, part.tokens) for part in card.parts} == {
        f"shards-{source}": (f"artifact:{source}", count) for source, count in tokens.items()
    }
    assert card.train.tokens == tokens.total() and card.allowed == ["train", "serve", "publish"]
    page = mix_html(card)
    for part in card.parts:
        assert part.share == pytest.approx(tokens[part.name.removeprefix("artifact:")] / tokens.total(), abs=1e-4)
        assert (
            f'<td class="right">{part.share:.1%}'.replace("%", " %") in page
            and f"data card {part.directory[7:]}<" in page
        )
    command = [sys.executable, "-m", "jobs.cli", "data", "card", blend.key, "--store", run.store.root, "--json"]
    shown = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert shown["scarcest"] == "artifact:texts001" and len(shown["parts"]) == 3
