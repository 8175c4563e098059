"""What is asked of a model before a run: every way to train that works is let through, with the numbers it trains."""

import pytest

from cluster.storage import Store
from configs.schema.objectives import Lora
from configs.schema.training import LanguageModelStage
from jobs.fit import training_bytes
from jobs.train.trainable import require_trainable
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
    assert 0 < adapters.trained < whole.trained / 2 and adapters.hidden == whole.hidden == SIZES["hidden_size"]
    beside = require_trainable(model, False, stage(Lora(rank=4, train_whole=["embed_tokens"])))
    assert beside.trained == adapters.trained + EMBEDDING


def test_what_is_frozen_needs_no_gradient_and_no_moments() -> None:
    """135 M parameters: 30 bytes each where all are trained; 2 each, and 30 for each number of the adapters, where they are frozen in bf16."""
    full = training_bytes(stage(None), 135_000_000, 135_000_000, 30, 576)
    adapters = training_bytes(stage(Lora()), 135_000_000, 5_000_000, 30, 576)
    assert full - adapters == 130_000_000 * 30 - 135_000_000 * 2
