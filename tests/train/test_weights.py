import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.distributed.device_mesh import DeviceMesh
from transformers import AutoModelForCausalLM

from cluster.storage import Store, open_store
from jobs.train import weights
from jobs.train.export import plan_files
from jobs.train.learner import Learner, LearnerSpec
from jobs.train.weights import WeightsError, check_tensors, list_tensors, read_rows
from tests.train.tiny_models import save_tiny_model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_equal_what_safetensors_wrote(tmp_path: Path, dtype: torch.dtype) -> None:
    matrix = torch.arange(7 * 5 * 3).reshape(7, 5, 3).to(dtype)
    save_file({"first": torch.ones(11, dtype=dtype), "matrix": matrix}, tmp_path / "model.safetensors")
    store = open_store(str(tmp_path))
    tensor = list_tensors(store)["matrix"]
    assert tensor.shape == (7, 5, 3) and tensor.dtype == dtype
    for first, rows in ((0, 7), (2, 3), (6, 1), (7, 0)):
        into = torch.empty(rows, 5, 3)
        read_rows(store, tensor, first, into)
        assert torch.equal(into, matrix[first : first + rows].float())


def test_a_tensor_longer_than_one_read_comes_whole(tmp_path: Path) -> None:
    matrix = torch.randn(weights.PIECE_BYTES // 4096 + 3, 1025, generator=torch.Generator().manual_seed(0))
    save_file({"matrix": matrix}, tmp_path / "model.safetensors")
    store = open_store(str(tmp_path))
    into = torch.empty_like(matrix[1:])
    read_rows(store, list_tensors(store)["matrix"], 1, into)
    assert torch.equal(into, matrix[1:])


def test_a_pickle_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    with pytest.raises(WeightsError, match=r"pytorch_model.bin, a pickle.*save_pretrained"):
        list_tensors(open_store(str(tmp_path)))


def test_a_cut_file_is_found_before_anything_is_read(tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path) / "model.safetensors"
    whole = path.read_bytes()
    for kept in (4, 200, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(WeightsError, match="fetch it again"):
            list_tensors(open_store(str(tmp_path)))


@pytest.mark.parametrize("entry", [{"dtype": "F32", "shape": [1]}, {"data_offsets": [0, 4]}, [1, 2]])
def test_a_header_that_does_not_say_where_a_tensor_lies(tmp_path: Path, entry: object) -> None:
    header = json.dumps({"norm.weight": entry}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(WeightsError, match=r"where norm.weight lies.*fetch it again"):
        list_tensors(open_store(str(tmp_path)))


def test_missing_left_over_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    save_file(
        {"a": torch.ones(2, 3), "extra": torch.ones(1), "rotary.inv_freq": torch.ones(1)}, tmp_path / "m.safetensors"
    )
    stored = list_tensors(open_store(str(tmp_path)))
    wanted = {"a": (3, 2), "b": (1,)}
    with pytest.raises(WeightsError) as raised:
        check_tensors(wanted, stored, [r"inv_freq$"], "DIR")
    message = str(raised.value)
    assert "missing: b" in message and "not part of the model: extra;" in message
    assert "a is [2, 3], config.json makes it [3, 2]" in message and "inv_freq" not in message


def test_a_model_directory_that_does_not_fit_is_refused_before_loading(tmp_path: Path, one_rank: DeviceMesh) -> None:
    save_tiny_model(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(WeightsError, match=r"missing: model.layers.2"):
        Learner(LearnerSpec(open_store(str(tmp_path)), "fp32", None), one_rank)


@pytest.mark.parametrize("family", ["llama", "llama_untied", "gemma"])
def test_export_of_untouched_weights_equals_the_source(tmp_path: Path, one_rank: DeviceMesh, family: str) -> None:
    source = save_tiny_model(tmp_path / "source", family, dtype=torch.bfloat16)
    (source / "artifact.json").write_text("{}")
    (source / "chat_template.jinja").write_text("{{ messages }}")
    from configs.schema.training import Optimizer

    learner = Learner(LearnerSpec(open_store(str(source)), "bf16", Optimizer()), one_rank)
    learner.load()
    learner.export(open_store(str(tmp_path / "out")))
    expected = AutoModelForCausalLM.from_pretrained(source, dtype="auto").state_dict()
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").state_dict()
    assert expected.keys() == exported.keys()
    assert all(
        torch.equal(values, exported[name]) and values.dtype == exported[name].dtype
        for name, values in expected.items()
    )
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"model.safetensors", "config.json", "generation_config.json", "chat_template.jinja"}
    stored = list_tensors(open_store(str(tmp_path / "out")))
    assert ("lm_head.weight" in stored) == (family == "llama_untied")


def test_files_are_cut_between_tensors() -> None:
    tensors = {name: ((size,), torch.float32) for name, size in (("a", 10), ("b", 10), ("c", 30), ("d", 1))}
    assert plan_files(tensors, most=80) == {
        "model-00001-of-00003.safetensors": ["a", "b"],
        "model-00002-of-00003.safetensors": ["c"],
        "model-00003-of-00003.safetensors": ["d"],
    }
    assert plan_files(tensors) == {"model.safetensors": ["a", "b", "c", "d"]}


def test_a_second_copy_of_the_weights_is_left_alone(tmp_path: Path) -> None:
    """Mistral's repositories: consolidated.safetensors beside the indexed files."""
    save_file({"a": torch.ones(2)}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"b": torch.ones(3)}, tmp_path / "model-00002-of-00002.safetensors")
    save_file({"a": torch.zeros(2), "other.name": torch.zeros(9)}, tmp_path / "consolidated.safetensors")
    save_file({"b": torch.zeros(3)}, tmp_path / "model.safetensors")
    index = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    store = Store(str(tmp_path))
    assert {name: tensor.file for name, tensor in list_tensors(store).items()} == index
    (tmp_path / "model.safetensors.index.json").unlink()
    for number in (1, 2):
        (tmp_path / f"model-0000{number}-of-00002.safetensors").unlink()
    assert {name: tensor.file for name, tensor in list_tensors(store).items()} == {"b": "model.safetensors"}


def test_an_index_of_files_that_are_not_there(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00001.safetensors"}}')
    with pytest.raises(WeightsError, match=r"names model-00001-of-00001.safetensors, which is not there"):
        list_tensors(Store(str(tmp_path)))
