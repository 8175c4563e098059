"""What is calculated is what a Learner holds, counted on its tensors; and hand numbers for models that fit nowhere here."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from transformers import LlamaConfig, LlamaForCausalLM

from cluster.storage import Store
from configs.schema.objectives import Lora
from configs.schema.training import Optimizer
from jobs.estimate import memory
from jobs.estimate.memory import Held, kv_bytes_per_token, learner_memory, saved_bytes, scorer_memory
from jobs.records import PackedRow
from jobs.train import fsdp, head
from jobs.train.batch import PackedBatch, pack_rows
from jobs.train.broadcast import announce_weights
from jobs.train.fsdp import build_mesh
from jobs.train.learner import Learner, LearnerSpec
from jobs.train.objectives.objective import Contribution
from jobs.train.trainable import measure, shape_of
from tests.estimate.shapes import LLAMA_2_7B, LLAMA_3_70B, SMOLLM2_135M
from tests.train.conftest import one_rank  # noqa: F401 - a fixture
from tests.train.live_bytes import live_bytes
from tests.train.ranks import run_ranks
from tests.train.test_learner import next_token
from tests.train.tiny_models import save_tiny_model

ROWS = [PackedRow([5, 6, 7, 8, 9, 10], [0.0, 1.0, 1.0, 1.0, 1.0, 1.0], [6], [0]) for _ in range(2)]


def save(directory: Path, **sizes: Any) -> Path:
    with torch.random.fork_rng():
        LlamaForCausalLM(LlamaConfig(**sizes)).to(torch.bfloat16).save_pretrained(directory)
    return directory


def sizes_of_smollm2() -> dict[str, Any]:
    shape = SMOLLM2_135M
    return {
        "hidden_size": shape.hidden, "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim, "intermediate_size": shape.intermediate,
        "vocab_size": shape.vocabulary, "tie_word_embeddings": True,
    }  # fmt: skip


def held_in_a_step(directory: Path, precision: Any, lora: Lora | None, keep_gathered_bytes: int) -> dict[str, int]:
    """Bytes by what they are: weights in the compute type before a step, gradients before the last backward pass, masters and
    moments after it."""
    fsdp.KEEP_GATHERED_BYTES = keep_gathered_bytes
    before = live_bytes()
    spec = LearnerSpec(Store(str(directory)), precision, Optimizer(), lora=lora)
    learner = Learner(spec, build_mesh(dist.get_world_size()))
    learner.load()
    loaded = live_bytes() - before
    loss, between = next_token(10.0), []

    def watched(values_W: Tensor, batch: PackedBatch) -> Contribution:
        between.append(live_bytes())
        return loss(values_W, batch)

    sums = learner.forward_backward([pack_rows([row]) for row in ROWS], watched)
    learner.step(1e-3, sums)
    state = {name: values.numel() * values.element_size() for name, values in learner.state().items()}
    return {
        "loaded_bf16": loaded[torch.bfloat16],
        "gradients": between[1][torch.float32] - between[0][torch.float32],
        "masters": sum(size for name, size in state.items() if name.startswith("param/")),
        "moments": sum(size for name, size in state.items() if name.startswith("exp_avg")),
        "sent": announce_weights(learner, 1, torch.bfloat16).nbytes,
    }


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"), "llama_untied")


@pytest.mark.parametrize("lora", [None, Lora(rank=4)])
@pytest.mark.parametrize(("ranks", "keep"), [(1, 1 << 30), (2, 1 << 30), (2, 0)])
def test_a_rank_holds_what_is_calculated(
    tiny: Path, ranks: int, keep: int, lora: Lora | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "KEEP_GATHERED_BYTES", keep)
    found = measure(Store(str(tiny)), False, "logprobs", lora)
    calculated = learner_memory(Held(found.shape, "bf16", "logprobs", found.trained), ranks, 6, False)
    of_ranks = run_ranks(ranks, held_in_a_step, tiny, "bf16", lora, keep)
    held = {name: sum(one[name] for one in of_ranks) / ranks for name in of_ranks[0]}  # rows do not divide evenly
    assert held["masters"] == calculated.masters
    assert held["moments"] == calculated.moments
    if keep or ranks == 1:
        assert held["gradients"] == pytest.approx(
            calculated.gradients - 4 * found.trained / ranks * (ranks > 1), rel=0.06
        )
    else:  # at its fullest a rank has the gradient of one group whole beside its own rows; between micro-batches not
        assert 4 * found.trained / ranks <= held["gradients"] * 1.01 < calculated.gradients
    if ranks == 1:
        assert held["loaded_bf16"] == calculated.weights
    assert held["sent"] == 2 * found.shape.parameters


@pytest.mark.cluster
@pytest.mark.parametrize("ranks", [1, 2])
def test_smollm2_135m(tmp_path: Path, ranks: int) -> None:
    save(tmp_path, **sizes_of_smollm2())
    calculated = learner_memory(
        Held(SMOLLM2_135M, "bf16", "logprobs", SMOLLM2_135M.parameters), ranks, len(ROWS[0].input_ids), False
    )
    held = run_ranks(ranks, held_in_a_step, tmp_path, "bf16", None, fsdp.KEEP_GATHERED_BYTES)[0]
    assert held["masters"] == pytest.approx(calculated.masters, rel=1e-3) == pytest.approx(4 * 134_515_008 / ranks)
    assert held["moments"] == pytest.approx(calculated.moments, rel=1e-3)
    whole = 4 * 134_515_008
    assert held["gradients"] == pytest.approx(whole, rel=0.01)
    assert calculated.gradients == whole if ranks == 1 else calculated.gradients == 1.5 * whole
    assert held["sent"] == 269_030_016


def saved_by_layer(directory: Path, mesh: DeviceMesh, precision: Any, checkpointing: bool) -> float:
    """Bytes that autograd keeps of one token in one layer, the same model measured with 2 and with 4 layers."""
    kept = []
    for layers in (2, 4):
        sizes = sizes_of_smollm2() | {"num_hidden_layers": layers, "vocab_size": 512}
        model = save(directory / str(layers), **sizes)
        spec = LearnerSpec(Store(str(model)), precision, Optimizer(), activation_checkpointing=checkpointing)
        learner = Learner(spec, mesh)
        learner.load()
        learner.sharded.before_forward()
        weights = {parameter.untyped_storage().data_ptr() for parameter in learner.sharded.module.parameters()}
        storages: dict[int, int] = {}
        held: list[Tensor] = []

        def keep(tensor: Tensor, held=held, storages=storages, weights=weights) -> Tensor:
            held.append(tensor)  # no storage may be freed and its place used again
            if tensor.untyped_storage().data_ptr() not in weights:
                storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        tokens = 128
        batch = pack_rows([PackedRow(list(range(3, 3 + tokens)), [0.0] * (tokens - 2) + [1.0, 0.0], [tokens], [0])])
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            learner.sharded.module(batch, 1.0)
        kept.append(sum(storages.values()) / tokens)
    return (kept[1] - kept[0]) / 2


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_activations_of_a_layer(one_rank: DeviceMesh, precision: Any) -> None:  # noqa: F811
    with tempfile.TemporaryDirectory() as scratch:
        measured = saved_by_layer(Path(scratch), one_rank, precision, checkpointing=False)
        assert saved_bytes(SMOLLM2_135M, precision) == pytest.approx(measured, rel=0.02)
        checkpointed = saved_by_layer(Path(scratch), one_rank, precision, checkpointing=True)
        assert memory.COMPUTE_BYTES[precision] * SMOLLM2_135M.hidden == checkpointed


def test_the_engines_limits_are_these() -> None:
    assert memory.KEEP_GATHERED_BYTES == fsdp.KEEP_GATHERED_BYTES
    assert (memory.HEAD_ROWS, memory.KEPT_LOGITS_BYTES) == (head.CHUNK_ROWS, head.KEPT_LOGITS_BYTES)


def test_llama_2_7b_by_hand() -> None:
    """16 bytes a parameter (fp32 master, gradient, two moments) over 8 ranks; of bf16 two layers and the root group."""
    rank = learner_memory(Held(LLAMA_2_7B, "bf16", "logprobs", LLAMA_2_7B.parameters), 8, 2048, True)
    assert rank.masters == 4 * 6_738_415_616 / 8
    assert rank.moments == 8 * 6_738_415_616 / 8
    assert rank.gradients == 4 * 6_738_415_616 / 8 + 6 * 262_148_096
    assert rank.weights == 2 * (2 * 202_383_360 + 262_148_096)
    assert rank.activations == 2048 * (32 * 2 * 4096 + 16 * 4096 + 8 * 11008 + 10 * 4096)
    # 2,048 rows x 32,000 words x 2 bytes are kept; 512 rows in bf16, fp32 and their gradient; 10 bytes of a 32,000 x 4,096 matrix
    assert rank.logits == 131_072_000 + 512 * 32_000 * 8 + 10 * 131_072_000
    alone = learner_memory(Held(LLAMA_2_7B, "bf16", "logprobs", LLAMA_2_7B.parameters), 1, 2048, True)
    assert alone.weights + alone.masters + alone.gradients + alone.moments == 18 * 6_738_415_616


def test_what_is_frozen_and_what_is_cut() -> None:
    frozen = Held(LLAMA_3_70B, "bf16", "logprobs")
    assert scorer_memory(frozen, 1, 1).weights == 2 * 70_553_706_496
    cut = scorer_memory(frozen, 8, 1).weights
    assert cut == 2 * 70_553_706_496 / 8 + 2 * (2 * 855_654_400 + 2_101_354_496)
    codes = Held(LLAMA_3_70B, "bf16", "logprobs", 10_000_000, base="nf4")
    assert learner_memory(codes, 8, 1, True).weights == pytest.approx(0.516 * 68.45e9 + 2 * 2.1e9 * 9 / 8, rel=0.01)
    critic = Held(LLAMA_3_70B, "bf16", "values")
    assert critic.parameters == 70_553_706_496 - 128_256 * 8192 + 8192
    assert Held(SMOLLM2_135M, "bf16", "values").parameters == 134_515_008 + 576


def test_keys_and_values() -> None:
    assert kv_bytes_per_token(LLAMA_2_7B, "bf16") == 524_288
    assert kv_bytes_per_token(LLAMA_3_70B, "bf16", 4) == 327_680 / 4
    assert kv_bytes_per_token(LLAMA_3_70B, "bf16", 16) == 327_680 / 8  # eight heads of keys, twice each


def test_the_shape_of_a_reward_model_is_that_of_its_language_model(tiny: Path) -> None:
    store = Store(str(tiny))
    scores = measure(store, False, "scores")
    assert scores.shape == shape_of(store, False)
    assert Held(scores.shape, "bf16", "scores", scores.trained).frozen == 0
