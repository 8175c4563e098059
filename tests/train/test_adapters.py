"""Adapters against PEFT itself: the same log-probabilities, gradients, files and merged weights."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from cluster.storage import Store, open_store
from configs.schema.objectives import Lora, RewardLoss
from configs.schema.training import Optimizer
from jobs.records import PackedRow
from jobs.train.adapters import AdapterError
from jobs.train.batch import empty_batch, pack_rows
from jobs.train.examples import pack_examples
from jobs.train.fsdp import build_mesh
from jobs.train.learner import Learner, LearnerSpec
from jobs.train.merge import export_merged, read_adapters
from jobs.train.objectives.lm import next_token_loss
from jobs.train.objectives.reward import Reward
from jobs.train.reader import StepBatch
from tests.train.judged import make_example
from tests.train.ranks import run_ranks
from tests.train.tiny_models import VOCABULARY, save_tiny_model
from tests.train.whole import whole_gradients

VARIANTS = {
    "lora": Lora(rank=4, alpha=8),
    "rslora": Lora(rank=4, alpha=8, rslora=True, targets=["q_proj", "down_proj"]),
    "dora": Lora(rank=4, alpha=8, dora=True),
    "trained_embedding": Lora(rank=2, alpha=8, train_whole=["embed_tokens"]),
}

OPTIMIZER = Optimizer(learning_rate=1e-2, clip_norm=1e9)


def make_row() -> PackedRow:
    ids = torch.randint(3, VOCABULARY, (30,), generator=torch.Generator().manual_seed(5)).tolist()
    return PackedRow(ids, [0.0] + [1.0] * 29, [30], [0])


def trained(
    directory: Path, lora: Lora, output: Path, precision: str = "fp32", steps: int = 3, adapter: Store | None = None
) -> dict[str, Tensor]:
    """Some steps on one row, spread over the ranks; exports both formats. The log-probabilities afterwards."""
    mesh = build_mesh(torch.distributed.get_world_size())
    spec = LearnerSpec(open_store(str(directory)), precision, OPTIMIZER, seed=3, lora=lora, adapter=adapter)  # pyright: ignore[reportArgumentType]
    learner = Learner(spec, mesh)
    learner.load()
    batch = pack_rows([make_row()])
    mine = batch if torch.distributed.get_rank() == 0 else empty_batch()
    start = learner.forward(batch)
    for _ in range(steps):
        sums = learner.forward_backward([mine], lambda values, packed: next_token_loss(values, packed, 29.0))
        gradients = {name: gradient.clone() for name, gradient in whole_gradients(learner).items()}
        learner.step(1e-2, sums)
    learner.export(open_store(str(output / "model")))
    learner.export_adapters(open_store(str(output / "adapter")))
    return {
        "start": start,
        "end": learner.forward(batch),
        **{f"gradient/{name}": value for name, value in gradients.items()},
    }


def logprobs(model: torch.nn.Module) -> Tensor:
    ids = torch.tensor(make_row().input_ids)
    return model(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]


@pytest.fixture(scope="module", params=["llama", "llama_untied"])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("base") / "model", request.param)


@pytest.mark.parametrize("name", VARIANTS)
def test_peft_and_transformers_read_what_is_exported(
    directory: Path, one_rank: DeviceMesh, tmp_path: Path, name: str
) -> None:
    result = trained(directory, VARIANTS[name], tmp_path)
    base = AutoModelForCausalLM.from_pretrained(directory)
    torch.testing.assert_close(result["start"], logprobs(base), rtol=0, atol=1e-5)
    assert float((result["end"] - result["start"]).abs().mean()) > 0.02
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(logprobs(merged), result["end"], rtol=0, atol=1e-5)
    with_adapters = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    torch.testing.assert_close(logprobs(with_adapters), result["end"], rtol=0, atol=1e-5)


def test_gradients_are_those_of_peft(directory: Path, one_rank: DeviceMesh, tmp_path: Path) -> None:
    """After two steps, when B is not 0 any more; PEFT starts from the adapters of that moment."""
    lora = VARIANTS["dora"]
    ours = trained(directory, lora, tmp_path / "three", steps=3)
    trained(directory, lora, tmp_path / "two", steps=2)
    base = AutoModelForCausalLM.from_pretrained(directory)
    model = PeftModel.from_pretrained(base, str(tmp_path / "two/adapter"), is_trainable=True)
    (-logprobs(model).sum() / 29).backward()
    theirs = {name: value.grad for name, value in model.named_parameters() if value.requires_grad}
    names = [name.removeprefix("gradient/") for name in ours if name.startswith("gradient/")]
    assert len(names) == len(theirs) == 3 * 7 * 2
    for name in names:
        torch.testing.assert_close(ours[f"gradient/{name}"], theirs[f"base_model.model.{name}"], rtol=0, atol=1e-5)


@pytest.mark.cluster
@pytest.mark.parametrize("name", ["dora", "trained_embedding"])
def test_ranks_change_nothing(directory: Path, one_rank: DeviceMesh, tmp_path: Path, name: str) -> None:
    whole = trained(directory, VARIANTS[name], tmp_path / "one", "fp64")
    for part in run_ranks(2, trained, directory, VARIANTS[name], tmp_path / "two", "fp64"):
        for key, value in whole.items():
            torch.testing.assert_close(part[key], value, rtol=0, atol=1e-9)
    adapters = [read_adapters(open_store(str(tmp_path / place / "adapter")))[0] for place in ("one", "two")]
    assert adapters[0].keys() == adapters[1].keys()


def test_the_state_is_what_is_trained(directory: Path, one_rank: DeviceMesh) -> None:
    learner = Learner(LearnerSpec(open_store(str(directory)), "bf16", Optimizer(), lora=VARIANTS["lora"]), one_rank)
    learner.load()
    names = [name for name in learner.state() if name.startswith("param/")]
    assert len(names) == 2 * 7 * 2 and all(".lora_" in name for name in names)


def test_merging_later_gives_the_same_model(directory: Path, one_rank: DeviceMesh, tmp_path: Path) -> None:
    trained(directory, VARIANTS["rslora"], tmp_path)
    tensors, lora = read_adapters(open_store(str(tmp_path / "adapter")))
    export_merged(tensors, lora, open_store(str(directory)), open_store(str(tmp_path / "later")))
    first, second = ((tmp_path / place / "model.safetensors").read_bytes() for place in ("model", "later"))
    assert first == second


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (Lora(targets=["q_proj", "kv_proj"]), r"lora.targets: no module is called 'kv_proj'.*q_proj"),
        (Lora(targets=["embed_tokens"]), "embed_tokens is no linear layer; put it under `train_whole`"),
        (Lora(train_whole=["wte"]), "lora.train_whole: no module is called 'wte'"),
        (Lora(targets=["q_proj", "lm_head"]), "lora.targets: lm_head gets no adapter; put .* under `train_whole`"),
        (
            Lora(targets=["q_proj", "up_proj"], train_whole=["up_proj"]),
            r"up_proj is in both `targets` .* leave it out of one",
        ),
        (Lora(targets=["q_proj"], train_whole=["self_attn"]), "q_proj is in both"),
        (Lora(train_whole=["down_proj"]), r"down_proj is in both `targets` \(all-linear\)"),
    ],
)
def test_modules_that_cannot_have_adapters(directory: Path, one_rank: DeviceMesh, lora: Lora, message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        Learner(LearnerSpec(open_store(str(directory)), "fp32", Optimizer(), lora=lora), one_rank)


def test_going_on_with_adapters_starts_where_they_ended(directory: Path, one_rank: DeviceMesh, tmp_path: Path) -> None:
    """The base stays what it was, however often: what is exported still belongs to it."""
    for name in ("dora", "trained_embedding"):
        first = trained(directory, VARIANTS[name], tmp_path / name / "first")
        adapter = open_store(str(tmp_path / name / "first/adapter"))
        second = trained(directory, VARIANTS[name], tmp_path / name / "second", adapter=adapter)
        torch.testing.assert_close(second["start"], first["end"], rtol=0, atol=1e-6)
        assert float((second["end"] - second["start"]).abs().mean()) > 0.02
        base = AutoModelForCausalLM.from_pretrained(directory)
        with_adapters = PeftModel.from_pretrained(base, str(tmp_path / name / "second/adapter"))
        torch.testing.assert_close(logprobs(with_adapters), second["end"], rtol=0, atol=1e-5)


def test_new_adapters_on_merged_ones(directory: Path, one_rank: DeviceMesh, tmp_path: Path) -> None:
    first = trained(directory, VARIANTS["lora"], tmp_path / "first")
    second = trained(tmp_path / "first/model", VARIANTS["rslora"], tmp_path / "second")
    torch.testing.assert_close(second["start"], first["end"], rtol=0, atol=1e-5)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "first/model")
    with_adapters = PeftModel.from_pretrained(base, str(tmp_path / "second/adapter"))
    torch.testing.assert_close(logprobs(with_adapters), second["end"], rtol=0, atol=1e-5)


@pytest.mark.cluster
def test_adapters_are_gone_on_with_on_any_number_of_ranks(
    directory: Path, one_rank: DeviceMesh, tmp_path: Path
) -> None:
    lora = VARIANTS["dora"]
    trained(directory, lora, tmp_path / "first")
    adapter = open_store(str(tmp_path / "first/adapter"))
    whole = trained(directory, lora, tmp_path / "one", "fp64", adapter=adapter)
    for part in run_ranks(2, trained, directory, lora, tmp_path / "two", "fp64", 3, adapter):
        torch.testing.assert_close(part["end"], whole["end"], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 8}, r"lora.rank is 8, the adapters that `start: continue` goes on with have 4"),
        ({"alpha": 16}, r"lora.alpha is 16, .* have 8"),
        ({"rslora": True}, r"lora.rslora is True"),
        ({"targets": ["q_proj"]}, r"on other modules \(.*down_proj.* would be dropped\); set lora.targets"),
        ({"train_whole": ["embed_tokens"]}, r"on other modules \(model.embed_tokens.* is not in them\)"),
    ],
)
def test_adapters_of_another_kind_are_not_gone_on_with(
    directory: Path, one_rank: DeviceMesh, tmp_path: Path, changes: dict, message: str
) -> None:
    trained(directory, VARIANTS["lora"], tmp_path, steps=1)
    other = VARIANTS["lora"].model_copy(update=changes)
    with pytest.raises(AdapterError, match=message):
        trained(directory, other, tmp_path / "other", adapter=open_store(str(tmp_path / "adapter")))


def test_the_adapters_of_a_reward_model_score_the_same_in_peft(
    directory: Path, one_rank: DeviceMesh, tmp_path: Path
) -> None:
    """Its head is among them: a new one on the base would give other scores."""
    spec = LearnerSpec(open_store(str(directory)), "fp32", OPTIMIZER, head="scores", seed=3, lora=VARIANTS["lora"])
    learner = Learner(spec, one_rank)
    learner.load()
    batch = pack_examples([make_example([0, 1], 4, [7, 9], seed=1)])
    objective = Reward(RewardLoss())
    step = StepBatch((batch,), (), 0.0, 1, 0, 0.0, ((0,),))
    learner.step(1e-2, learner.forward_backward([batch], objective.loss_of_step(learner, step)))
    learner.export_adapters(open_store(str(tmp_path)))
    base = AutoModelForSequenceClassification.from_pretrained(directory, num_labels=1)
    scorer = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    example = make_example([0, 1], 4, [7, 9], seed=1)
    texts = (example.input_ids[:11], example.input_ids[11:])
    with torch.no_grad():
        scores = torch.stack([scorer(torch.tensor([text])).logits[0, 0] for text in texts])
    torch.testing.assert_close(scores, learner.forward(batch), rtol=0, atol=1e-5)


def test_merging_into_another_base_is_refused(directory: Path, one_rank: DeviceMesh, tmp_path: Path) -> None:
    trained(directory, VARIANTS["lora"], tmp_path, steps=1)
    other = open_store(str(save_tiny_model(tmp_path / "qwen", "qwen3")))
    tensors, lora = read_adapters(open_store(str(tmp_path / "adapter")))
    with pytest.raises(AdapterError, match=r"k_proj.weight is \[32, 32\] in .*its adapter is for \[16, 32\]"):
        export_merged(tensors, lora, other, open_store(str(tmp_path / "merged")))


def test_a_model_merged_in_bf16_says_the_same_words(one_rank: DeviceMesh, tmp_path: Path) -> None:
    """Merged weights are rounded once more; the most likely next token stays, except where two were level."""
    directory = save_tiny_model(tmp_path / "base", "llama", dtype=torch.bfloat16)
    trained(directory, VARIANTS["lora"], tmp_path, "bf16")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert merged.dtype == torch.bfloat16
    base = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    unmerged = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    ids = torch.randint(3, VOCABULARY, (32, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, exact = merged(ids).logits.float(), unmerged(ids).logits
    same = (ours.argmax(-1) == exact.argmax(-1)).float().mean()
    assert float(same) > 0.97, float(same)
