"""What is asked of a model before a run: every way to train that works is let through, with the numbers it trains."""

import pytest

from cluster.storage import Store
from configs.schema.objectives import Lora
from configs.schema.training import LanguageModelStage
from jobs.preflight.fit import training_bytes
from jobs.train.trainable import require_trainable
from tests.estimate.shapes import SMOLLM2_135M
from tests.train.tiny_models import SIZES, VOCABULARY, save_tiny_model

EMBEDDING = VOCABULARY * SIZES["hidden_size"]


def stage(lora: Lora | None) -> LanguageModelStage:
    return LanguageModelStage(stage="sft", model="base", shards="rows", steps=1, lora=lora)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(str(save_tiny_model(tmp_path_factory.mktemp("llama"), "llama")))


def test_adapters_count_the_same_on_every_base(model: Store) -> None:
    whole = require_trainable(model, False, stage(None))
    adapters = require_trainable(model, False, stage(Lora(rank=4)))
    assert require_trainable(model, False, stage(Lora(rank=4, base="nf4"))) == adapters
    assert (
        0 < adapters.trained < whole.trained / 2 and adapters.shape.hidden == whole.shape.hidden == SIZES["hidden_size"]
    )
    beside = require_trainable(model, False, stage(Lora(rank=4, train_whole=["embed_tokens"])))
    assert beside.trained == adapters.trained + EMBEDDING


def test_what_is_frozen_needs_no_gradient_and_no_moments() -> None:
    """Of 30 bytes where all are trained, of which 12 are the copy a checkpoint is written from, 2 are left of what is frozen in
    bf16; each number of the adapters has 30."""
    whole = SMOLLM2_135M.parameters
    full = training_bytes(stage(None), SMOLLM2_135M, whole)
    adapters = training_bytes(stage(Lora()), SMOLLM2_135M, 5_000_000)
    assert full - adapters == (whole - 5_000_000) * 30 - whole * 2
