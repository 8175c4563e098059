"""The gate for every family: packing changes nothing, and the head contract equals transformers' own logits."""

from pathlib import Path

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh
from transformers import AutoModelForCausalLM

from cluster.storage import open_store
from jobs.records import PackedRow
from jobs.train.attention import UnsupportedModel
from jobs.train.batch import pack_rows
from jobs.train.learner import Learner, LearnerSpec
from jobs.train.model import check_config
from tests.train.tiny_models import FAMILIES, SIZES, VOCABULARY, save_tiny_model

LENGTHS = (37, 5, 1, 61)


def segment(length: int, seed: int) -> list[int]:
    return torch.randint(3, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def row(*segments: list[int]) -> PackedRow:
    weights = [float(index > 0) for ids in segments for index in range(len(ids))]
    return PackedRow(
        [token for ids in segments for token in ids], weights, [len(ids) for ids in segments], [0] * len(segments)
    )


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, one_rank: DeviceMesh):
    directory = save_tiny_model(tmp_path_factory.mktemp(request.param), request.param)
    learner = Learner(LearnerSpec(open_store(str(directory)), "fp32", None), one_rank)
    learner.load()
    return learner, AutoModelForCausalLM.from_pretrained(directory)


def test_a_packed_segment_scores_as_it_does_alone_in_transformers(model) -> None:
    learner, reference = model
    segments = [segment(length, seed) for seed, length in enumerate(LENGTHS)]
    packed = learner.forward(pack_rows([row(*segments)]))
    alone = torch.cat([learner.forward(pack_rows([row(ids)])) for ids in segments])
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-6 * float(alone.abs().max()))
    with torch.no_grad():
        expected = torch.cat(
            [
                reference(torch.tensor([ids]))
                .logits[0, :-1]
                .log_softmax(-1)
                .gather(1, torch.tensor(ids)[1:, None])[:, 0]
                for ids in segments
            ]
        )
    assert alone.std() > 0.3  # the model is not flat, so that a leak would show
    torch.testing.assert_close(packed, expected, rtol=0, atol=1e-5)


def test_another_neighbour_leaves_every_bit(model) -> None:
    learner, _ = model
    kept = segment(40, 7)
    first = learner.forward(pack_rows([row(segment(23, 1), kept)]))
    second = learner.forward(pack_rows([row(segment(23, 2), kept)]))
    assert not torch.equal(first[:22], second[:22])
    assert torch.equal(first[22:], second[22:])


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"model_type": "mistral", "sliding_window": 16}, "sliding_window"),
        ({"model_type": "llama", "attention_dropout": 0.1}, "attention_dropout"),
        ({"model_type": "gemma2", "attn_logit_softcapping": 50.0, "sliding_window": None}, "attn_logit_softcapping"),
        ({"model_type": "granite", "logits_scaling": 8.0}, "logits_scaling"),
    ],
)
def test_what_would_be_computed_wrong_is_refused_by_name(changes: dict, key: str) -> None:
    from transformers import AutoConfig

    with pytest.raises(UnsupportedModel, match=key):
        check_config(AutoConfig.for_model(**{**SIZES, **changes}))


def test_a_window_that_reaches_attention_is_refused_there_too(tmp_path: Path, one_rank: DeviceMesh) -> None:
    learner = Learner(LearnerSpec(open_store(str(save_tiny_model(tmp_path, "mistral"))), "fp32", None), one_rank)
    learner.load()
    learner.config.sliding_window = 8
    with pytest.raises(UnsupportedModel, match="sliding_window"):
        learner.forward(pack_rows([row(segment(20, 0))]))
