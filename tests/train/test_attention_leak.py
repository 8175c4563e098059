"""The gate for every family: packing changes nothing, and the head contract equals transformers' own logits."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh
from transformers import AutoConfig, AutoModelForCausalLM

from cluster.storage import open_store
from configs.schema.training import Optimizer
from jobs.records import ExampleRow, PackedRow
from jobs.train.attention import UnsupportedModel
from jobs.train.batch import PackedBatch, pack_rows
from jobs.train.examples import pack_examples, pack_mismatched
from jobs.train.families import FAMILIES as TRAINED_FAMILIES
from jobs.train.families import check_config
from jobs.train.learner import Learner, LearnerSpec
from jobs.train.model import build_on_meta
from jobs.train.objectives.lm import next_token_loss
from tests.train.judged import make_example
from tests.train.tiny_models import FAMILIES, SIZES, VOCABULARY, save_tiny_model

LENGTHS = (37, 5, 1, 61)


def segment(length: int, seed: int) -> list[int]:
    return torch.randint(3, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def row(*segments: list[int]) -> PackedRow:
    weights = [float(index > 0) for ids in segments for index in range(len(ids))]
    return PackedRow(
        [token for ids in segments for token in ids], weights, [len(ids) for ids in segments], [0] * len(segments)
    )


def in_transformers(directory: Path) -> torch.nn.Module:
    """With attention written out: transformers' SDPA leaves Gemma 2's soft cap out without a word."""
    return AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager")


@torch.no_grad()
def alone_in_transformers(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    """Log-probabilities of a text's tokens, from the logits of a model that knows nothing of packing."""
    logits = model(torch.tensor([ids]), use_cache=False).logits[0, :-1]
    return logits.log_softmax(-1).gather(1, torch.tensor(ids)[1:, None])[:, 0]


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, one_rank: DeviceMesh):
    directory = save_tiny_model(tmp_path_factory.mktemp(request.param), request.param)
    learner = Learner(LearnerSpec(open_store(str(directory)), "fp32", None), one_rank)
    learner.load()
    return learner, in_transformers(directory)


@pytest.fixture(scope="module")
def scorer(model, one_rank: DeviceMesh) -> Learner:
    """The same weights under a head of one row."""
    learner = Learner(LearnerSpec(model[0].spec.model, "fp32", None, head="scores"), one_rank)
    learner.load()
    return learner


def test_a_packed_segment_scores_as_it_does_alone_in_transformers(model) -> None:
    learner, reference = model
    segments = [segment(length, seed) for seed, length in enumerate(LENGTHS)]
    packed = learner.forward(pack_rows([row(*segments)]))
    alone = torch.cat([learner.forward(pack_rows([row(ids)])) for ids in segments])
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-6 * float(alone.abs().max()))
    expected = torch.cat([alone_in_transformers(reference, ids) for ids in segments])
    assert alone.std() > 0.3  # the model is not flat, so that a leak would show
    torch.testing.assert_close(packed, expected, rtol=0, atol=1e-5)


def test_another_neighbour_leaves_every_bit(model) -> None:
    learner, _ = model
    kept = segment(40, 7)
    first = learner.forward(pack_rows([row(segment(23, 1), kept)]))
    second = learner.forward(pack_rows([row(segment(23, 2), kept)]))
    assert not torch.equal(first[:22], second[:22])
    assert torch.equal(first[22:], second[22:])


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_trained_model_has_the_same_logits_in_transformers(tmp_path: Path, one_rank: DeviceMesh, family: str) -> None:
    """Exported after two steps; every parameter has moved, so each has a gradient and its own place in the files."""
    directory = save_tiny_model(tmp_path / "base", family)
    learner = Learner(LearnerSpec(open_store(str(directory)), "fp32", Optimizer(learning_rate=1e-2)), one_rank)
    learner.load()
    packed = pack_rows([row(segment(50, 1), segment(9, 2))])
    start = {name: values.clone() for name, values in learner.state().items()}
    before = learner.forward(packed)
    for _ in range(2):
        sums = learner.forward_backward([packed], lambda values, batch: next_token_loss(values, batch, 57.0))
        learner.step(1e-2, sums)
    after = learner.forward(packed)
    assert float((after - before).abs().mean()) > 0.02
    moved = {name: not torch.equal(start[name], values) for name, values in learner.state().items() if "param/" in name}
    assert all(moved.values()), [name for name, changed in moved.items() if not changed]
    learner.export(open_store(str(tmp_path / "model")))
    exported = in_transformers(tmp_path / "model")
    expected = torch.cat([alone_in_transformers(exported, ids) for ids in (segment(50, 1), segment(9, 2))])
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-5)


def test_a_text_that_would_turn_its_neighbours_angles_is_refused(tmp_path: Path, one_rank: DeviceMesh) -> None:
    learner = Learner(LearnerSpec(open_store(str(save_tiny_model(tmp_path, "phi3_long"))), "fp32", None), one_rank)
    learner.load()
    learner.forward(pack_rows([row(segment(64, 0), segment(64, 1))]))
    with pytest.raises(UnsupportedModel, match="text of 65 tokens.*`context` of at most 64"):
        learner.forward(pack_rows([row(segment(65, 0), segment(9, 1))]))


PACKINGS: dict[str, tuple[list[int], Callable[[list[ExampleRow]], PackedBatch]]] = {
    "dpo": ([0, 1], pack_examples),
    "orpo": ([0, 1], partial(pack_examples, learn_best_prompt=True)),
    "kto": ([1, -1], pack_examples),
    "kto_mismatched": ([1, -1], pack_mismatched),
    "reward": ([1, 0, 2], pack_examples),
}
"""What a micro-batch of each objective that judges answers is made of: levels of an example, and how examples are packed."""


def values_by_segment(learner: Learner, batch: PackedBatch) -> list[torch.Tensor]:
    """Log-probabilities of each segment, or its score."""
    values = learner.forward(batch)
    if learner.spec.head == "scores":
        return list(values)
    return [values[batch.answers.segment_W == number] for number in range(len(batch.answers.level_S))]


@pytest.mark.parametrize("objective", PACKINGS)
def test_another_example_leaves_every_bit(model, scorer: Learner, objective: str) -> None:
    """Neither the examples on both sides nor, inside an example, the other answers reach a segment."""
    levels, pack = PACKINGS[objective]
    learner = scorer if objective == "reward" else model[0]
    example = partial(make_example, levels, 6, [9, 14, 5][: len(levels)])
    kept = example(seed=1)
    changed = 0 if objective == "kto" else len(levels) - 1
    first = values_by_segment(learner, pack([example(seed=2), kept, example(seed=3)]))
    second = values_by_segment(learner, pack([example(seed=4), kept, example(seed=5)]))
    third = values_by_segment(learner, pack([example(seed=2), with_another_end(kept, changed), example(seed=3)]))
    inside = len(first) // 3  # of a thumb one of the two segments is packed, so `changed` is the last one there
    for number, value in enumerate(first):
        in_kept, last = number // inside == 1, number == 2 * inside - 1
        assert torch.equal(value, second[number]) is in_kept
        assert torch.equal(value, third[number]) is not last


def test_answers_that_share_their_prompt_score_as_they_do_alone(model, scorer: Learner) -> None:
    """Longer than the windows of the families that have them, so that a window counts from the text's start."""
    example = make_example([1, 0, 2], 30, [9, 14, 25], seed=1)
    batch = pack_examples([make_example([0, 1], 4, [3, 3], seed=2), example])
    assert batch.shared_S2 is not None and batch.shared_S2[2:].tolist() == [[0, 0], [2, 29], [2, 29]]
    for learner in (model[0], scorer):
        together = values_by_segment(learner, batch)[2:]
        alone = [values_by_segment(learner, pack_examples([answer]))[0] for answer in answers_of(example)]
        for shared, own in zip(together, alone, strict=True):
            torch.testing.assert_close(shared, own, rtol=0, atol=1e-6 * max(1.0, float(own.abs().max())))


def answers_of(row: ExampleRow) -> list[ExampleRow]:
    """Each answer of an example as an example of its own."""
    starts = [0, *accumulate(row.segment_lengths)]
    spans = [slice(start, stop) for start, stop in pairwise(starts)]
    return [
        ExampleRow(
            row.input_ids[span], row.weights[span], [span.stop - span.start], [0], [0], row.prompt_lengths[:1], 0.0
        )
        for span in spans
    ]


def with_another_end(row: ExampleRow, segment: int) -> ExampleRow:
    """The same tokens but for the last three of a segment."""
    ids = list(row.input_ids)
    stop = sum(row.segment_lengths[: segment + 1])
    for place in range(stop - 3, stop):
        ids[place] = 3 + (ids[place] - 2) % (VOCABULARY - 3)
    return replace(row, input_ids=ids)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"model_type": "starcoder2", "sliding_window": 16}, "sliding_window = 16 is supported for cohere2, gemma2"),
        ({"model_type": "llama", "attention_dropout": 0.1}, "attention_dropout"),
        ({"model_type": "gemma3_text", "attn_logit_softcapping": 50.0}, "attn_logit_softcapping = 50.0.* gemma2 only"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({"model_type": "granitemoe", "num_local_experts": 4}, "num_local_experts = 4: mixtures of experts"),
        ({"model_type": "qwen3_moe"}, "mixtures of experts"),
        ({"model_type": "deepseek_v3"}, "n_routed_experts = 256: mixtures of experts"),
        ({"model_type": "gpt_oss"}, "num_local_experts = 128: mixtures of experts"),
        ({"model_type": "gemma3"}, "vision_config says that the model reads more than text"),
        ({"model_type": "qwen2_audio"}, "audio_config says"),
        ({"model_type": "t5"}, "encoder-decoder"),
        (
            {"model_type": "recurrent_gemma", "num_key_value_heads": 1},
            "packed texts would see each other in it; choose .* gemma3_text",
        ),
        ({"model_type": "xglm", "dropout": 0, "attention_dropout": 0}, "model_type xglm: it is not known"),
        ({"model_type": "nemotron"}, "model_type nemotron: it is not known"),
        ({"model_type": "lfm2", "layer_types": ["conv", "full_attention"]}, "layers of type conv"),
    ],
)
def test_what_would_be_computed_wrong_is_refused_by_name(changes: dict, key: str) -> None:
    sizes = {} if "vision" in key or "audio" in key or "encoder" in key else SIZES
    with pytest.raises(UnsupportedModel, match=key):
        check_config(AutoConfig.for_model(**{**sizes, **changes}))


def test_every_family_that_is_let_through_has_a_tiny_model() -> None:
    assert {config.model_type for config in FAMILIES.values()} == TRAINED_FAMILIES


def test_a_model_of_another_shape_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"PhiForCausalLM has a bias in its head"):
        build_on_meta(AutoConfig.for_model("phi", **SIZES), trust_remote_code=False)
    with pytest.raises(UnsupportedModel, match=r"GPT2LMHeadModel has no model.layers"):
        build_on_meta(AutoConfig.for_model("gpt2"), trust_remote_code=False)
