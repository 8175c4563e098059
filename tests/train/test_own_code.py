"""A model's own Python is tried on packed texts when it is loaded."""

from pathlib import Path

import pytest
from torch.distributed.device_mesh import DeviceMesh

from cluster.storage import Store
from jobs.train.attention import UnsupportedModel
from jobs.train.fsdp import Precision
from jobs.train.learner import Learner, LearnerSpec
from jobs.train.model import Head
from tests.world.own_model import write_own_model

ON_EMBEDDING = "self.model.embed_tokens.register_forward_hook(lambda module, args, output: {})"
LEAKS = ON_EMBEDDING.format("output + 0.01 * output.cumsum(1)")
LOOKS_AHEAD = ON_EMBEDDING.format("output + 0.01 * output.flip(1)")
COUNTS_THROUGH = ON_EMBEDDING.format("output + 0.01 * torch.arange(output.shape[1])[:, None].to(output)")
FAILS = ON_EMBEDDING.format("output @ output")


def load(directory: Path, one_rank: DeviceMesh, precision: Precision, head: Head) -> None:
    Learner(LearnerSpec(Store(str(directory)), precision, None, trust_remote_code=True, head=head), one_rank).load()


@pytest.mark.parametrize("head", ["logprobs", "scores"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_packed_texts_need(
    tmp_path: Path, tiny_model: Path, one_rank: DeviceMesh, monkeypatch: pytest.MonkeyPatch, precision: Precision, head: Head
) -> None:  # fmt: skip
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    load(write_own_model(tmp_path / "llama", tiny_model), one_rank, precision, head)
    wrong = {
        LEAKS: "texts in one row see each other",
        LOOKS_AHEAD: "texts in one row see each other",
        COUNTS_THROUGH: "other values in a row than alone.*positions counted through",
        FAILS: "fails on packed texts",
    }
    for number, (change, says) in enumerate(wrong.items()):
        directory = write_own_model(tmp_path / str(number), tiny_model, change)
        with pytest.raises(UnsupportedModel, match=says):
            load(directory, one_rank, precision, head)
