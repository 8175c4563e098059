"""Parameters are counted on the models, and are what their makers say."""

import json
from pathlib import Path

import pytest

from cluster.storage import Store
from jobs.estimate.shape import ModelShape
from jobs.train.trainable import shape_of
from tests.estimate.shapes import LLAMA_2_7B, LLAMA_3_8B, LLAMA_3_70B, SMOLLM2_135M
from tests.train.tiny_models import FAMILIES, save_tiny_model
from tests.world.toy_run import CHECKOUT

SHIPPED = CHECKOUT / "configs" / "shapes"


def write_config(directory: Path, shape: ModelShape) -> Store:
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": shape.hidden, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim,
        "intermediate_size": shape.intermediate, "vocab_size": shape.vocabulary, "tie_word_embeddings": shape.tied,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))
    return Store(str(directory))


@pytest.mark.parametrize("shape", [SMOLLM2_135M, LLAMA_3_8B])
def test_a_config_is_enough_to_count(shape: ModelShape, tmp_path: Path) -> None:
    assert shape_of(write_config(tmp_path, shape), False) == shape


@pytest.mark.parametrize(("name", "shape"), [("llama-2-7b", LLAMA_2_7B), ("llama-3-70b", LLAMA_3_70B)])
def test_shipped_shapes(name: str, shape: ModelShape) -> None:
    assert shape_of(Store(str(SHIPPED / name)), False) == shape


def test_by_hand() -> None:
    """Llama 2 7B: 4 x 4096^2 + 3 x 4096 x 11008 + 2 x 4096 a layer, 2 x 32000 x 4096 + 4096 beside them."""
    assert LLAMA_2_7B.layer_parameters == 67_108_864 + 135_266_304 + 8_192
    assert LLAMA_2_7B.root_parameters == 262_144_000 + 4_096
    assert LLAMA_2_7B.parameters == 32 * LLAMA_2_7B.layer_parameters + LLAMA_2_7B.root_parameters
    assert LLAMA_2_7B.matrix_parameters == 32 * LLAMA_2_7B.layer_parameters
    assert LLAMA_2_7B.kv_numbers_per_token * 2 == 524_288  # half a MiB in 16 bit
    assert LLAMA_3_70B.kv_numbers_per_token * 2 == 327_680


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_that_is_trained_has_a_shape(family: str, tmp_path: Path) -> None:
    shape = shape_of(Store(str(save_tiny_model(tmp_path, family))), False)
    assert (shape.layers, shape.hidden, shape.intermediate, shape.heads, shape.kv_heads) == (2, 32, 48, 4, 2)
    assert shape.parameters == shape.root_parameters + 2 * shape.layer_parameters
