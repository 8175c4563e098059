import pytest
import torch

from configs.schema.training import Optimizer
from jobs.train.optimizer import AdamW, learning_rate


def test_learning_rate_by_hand() -> None:
    """12 steps: 2 of warm-up, then half a cosine over the 9 steps between step 2 and step 11, down to a tenth."""
    optimizer = Optimizer(learning_rate=1.0, warmup_fraction=2 / 12, final_rate_fraction=0.1)
    rates = [learning_rate(step, 12, optimizer) for step in range(12)]
    assert rates[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert rates[5] == pytest.approx(0.1 + 0.9 * 0.75)  # a third of the way: cos 60 deg = 1/2
    assert rates[8] == pytest.approx(0.1 + 0.9 * 0.25)
    assert rates[11] == pytest.approx(0.1)
    assert learning_rate(0, 1, optimizer) == 1.0


def test_equals_torch_adamw_and_spares_norms_from_decay() -> None:
    optimizer = Optimizer(weight_decay=0.3, beta1=0.8, beta2=0.9)
    generator = torch.Generator().manual_seed(0)
    rows = {"matrix": torch.randn(5, 3, generator=generator), "norm": torch.randn(3, generator=generator)}
    rows["none"] = torch.empty(0, 3)
    expected = {name: torch.nn.Parameter(values.double()) for name, values in rows.items() if values.numel()}
    groups = [
        {"params": [expected["matrix"]], "weight_decay": 0.3},
        {"params": [expected["norm"]], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=0.1, betas=(0.8, 0.9), eps=1e-8)
    adamw = AdamW(rows, {name: tuple(values.shape) for name, values in rows.items()}, optimizer)
    for _ in range(3):
        gradients = {name: torch.randn(values.shape, generator=generator) for name, values in rows.items()}
        for name, parameter in expected.items():
            parameter.grad = gradients[name].double()
        reference.step()
        adamw.step(rows, gradients, 0.1)
    for name, parameter in expected.items():
        torch.testing.assert_close(rows[name].double(), parameter.detach(), rtol=0, atol=1e-6)
    assert float(adamw.steps_done) == 3
