import pytest
import torch

from jobs.train import head
from jobs.train.head import CHUNK_ROWS, token_entropy, token_logprobs, token_logprobs_and_entropy


def case(rows: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    hidden = torch.randn(rows, 24, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(97, 24, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(97, (rows,), generator=generator)
    upstream = torch.rand(rows, generator=generator)
    return hidden, weight, targets, upstream


def oracle(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float, softcap: float | None = None
) -> torch.Tensor:
    """Full fp64 logits through torch's own log-softmax."""
    logits = hidden.double() @ weight.double().T
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return (logits / temperature).log_softmax(-1).gather(1, targets[:, None])[:, 0]


@pytest.mark.parametrize(("temperature", "softcap"), [(1.0, None), (0.7, None), (0.7, 4.0)])
@pytest.mark.parametrize("rows", [1, CHUNK_ROWS, 2 * CHUNK_ROWS + 3])
@pytest.mark.parametrize(
    ("dtype", "value_tolerance", "grad_tolerance"), [(torch.float64, 1e-12, 1e-11), (torch.float32, 2e-5, 1e-4)]
)
def test_values_and_gradients_equal_full_fp64_logits(
    rows, dtype, value_tolerance, grad_tolerance, temperature, softcap
) -> None:
    hidden, weight, targets, upstream = case(rows, dtype)
    values = token_logprobs(hidden, weight, targets, temperature, softcap)
    values.backward(upstream.to(values.dtype))
    expected_hidden, expected_weight = (
        hidden.detach().double().requires_grad_(),
        weight.detach().double().requires_grad_(),
    )
    expected = oracle(expected_hidden, expected_weight, targets, temperature, softcap)
    expected.backward(upstream.double())
    torch.testing.assert_close(values.double(), expected, rtol=0, atol=value_tolerance)
    torch.testing.assert_close(hidden.grad.double(), expected_hidden.grad, rtol=0, atol=grad_tolerance)
    torch.testing.assert_close(weight.grad.double(), expected_weight.grad, rtol=0, atol=rows * grad_tolerance)


def test_bf16_differs_only_by_the_rounding_of_logits() -> None:
    hidden, weight, targets, _ = case(600, torch.bfloat16)
    values = token_logprobs(hidden, weight, targets)
    assert values.dtype == torch.float32
    # Logits reach 20 here, where neighbouring bf16 numbers are 2^-3 apart: half of it for the target, as much for the rest.
    assert (values.double() - oracle(hidden, weight, targets, 1.0)).abs().max() < 2**-3
    assert (values.double() - oracle(hidden, weight, targets, 1.0)).mean().abs() < 5e-3


def test_recomputed_logits_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The budget is a constant of the module; nothing is replaced by a stand-in."""
    results = []
    for budget in (1 << 29, 0):
        monkeypatch.setattr(head, "KEPT_LOGITS_BYTES", budget)
        hidden, weight, targets, upstream = case(2 * CHUNK_ROWS + 3, torch.bfloat16)
        token_logprobs(hidden, weight, targets).backward(upstream)
        results.append((hidden.grad, weight.grad))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


def test_no_row_gives_no_value_and_zero_gradients() -> None:
    hidden, weight, targets, _ = case(0, torch.float32)
    token_logprobs(hidden, weight, targets).sum().backward()
    assert hidden.grad.shape == (0, 24) and not weight.grad.any()


def test_entropy_of_equal_logits_is_log_of_their_number() -> None:
    entropy = token_entropy(torch.zeros(3, 4), torch.ones(8, 4))
    torch.testing.assert_close(entropy, torch.full((3,), 2.0794415), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("temperature", "softcap"), [(1.0, None), (0.7, None), (0.7, 4.0)])
@pytest.mark.parametrize("rows", [1, 2 * CHUNK_ROWS + 3])
@pytest.mark.parametrize(
    ("dtype", "value_tolerance", "grad_tolerance"), [(torch.float64, 1e-12, 1e-11), (torch.float32, 2e-5, 2e-4)]
)
def test_entropy_and_its_gradient_equal_full_fp64_logits(
    rows, dtype, value_tolerance, grad_tolerance, temperature, softcap
) -> None:
    hidden, weight, targets, upstream = case(rows, dtype)
    logprobs, entropy = token_logprobs_and_entropy(hidden, weight, targets, temperature, softcap)
    assert torch.equal(logprobs, token_logprobs(hidden, weight, targets, temperature, softcap))
    (upstream.to(entropy.dtype) * (entropy - 0.3 * logprobs)).sum().backward()
    full_hidden, full_weight = (part.detach().double().requires_grad_() for part in (hidden, weight))
    logits = full_hidden @ full_weight.T
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    all_logprobs = (logits / temperature).log_softmax(-1)
    expected = -(all_logprobs.exp() * all_logprobs).sum(-1)
    chosen = all_logprobs.gather(1, targets[:, None])[:, 0]
    (upstream.double() * (expected - 0.3 * chosen)).sum().backward()
    torch.testing.assert_close(entropy.double(), expected, rtol=0, atol=value_tolerance)
    torch.testing.assert_close(hidden.grad.double(), full_hidden.grad, rtol=0, atol=grad_tolerance)
    torch.testing.assert_close(weight.grad.double(), full_weight.grad, rtol=0, atol=rows * grad_tolerance)


def test_learnt_entropy_recomputes_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for budget in (1 << 29, 0):
        monkeypatch.setattr(head, "KEPT_LOGITS_BYTES", budget)
        hidden, weight, targets, upstream = case(CHUNK_ROWS + 3, torch.bfloat16)
        logprobs, entropy = token_logprobs_and_entropy(hidden, weight, targets)
        (upstream * (entropy + logprobs)).sum().backward()
        results.append((hidden.grad, weight.grad))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


def test_no_row_has_no_entropy() -> None:
    hidden, weight, targets, _ = case(0, torch.float32)
    logprobs, entropy = token_logprobs_and_entropy(hidden, weight, targets)
    (logprobs.sum() + entropy.sum()).backward()
    assert entropy.shape == (0,) and not weight.grad.any()
