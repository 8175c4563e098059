"""The demo's model in bf16: what is served agrees with transformers as far as bf16 allows."""

from collections.abc import Iterator

import pytest
import torch
from transformers import AutoTokenizer

from tests.serving.service import CHECKOUT, Service, reference_logprobs, served, served_logprobs

pytestmark = pytest.mark.vllm

MODEL = CHECKOUT / "artifacts" / "assets" / "smollm2-135m-instruct"
TEXTS = (
    "The liver is the largest internal organ of the human body. It filters the blood that comes from the digestive tract "
    "before it reaches the rest of the circulation, breaks down drugs and other foreign substances, and makes proteins "
    "that are needed for blood to clot. Patients in whom cirrhosis has destroyed most of its cells may need a transplant.",
    "We compared two groups of forty adults with mild hypertension over twelve weeks. One group walked for thirty minutes "
    "on five days of the week, the other kept its habits. Systolic pressure fell by seven millimetres of mercury in the "
    "first group and by one in the second. Heart rate at rest did not differ between the groups at the end of the study.",
    "A program that waits for a condition should say how long it is ready to wait, and what it was waiting for when the "
    "time has passed. Sleeping for a guess makes tests slow on a fast machine and unreliable on a slow one. The same holds "
    "for a network: an answer that never comes must end in an error message, not in a process that hangs for ever.",
)
"""Written for this test: prose of three kinds, about 200 tokens."""
MEAN_DIFFERENCE = 0.03
TOP_1_AGREEMENT = 0.98
"""Gates of the project. Both sides round to 8 bits of mantissa in different kernels; ties within that are not errors."""


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    if not (MODEL / "config.json").is_file():
        pytest.skip("the demo's model is not here: `make demo` fetches it")
    with served(str(MODEL), "dtype=bfloat16", "max_model_len=1024") as running:
        yield running


def test_log_probabilities_agree_with_transformers(service: Service) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    differences: list[float] = []
    agreements: list[bool] = []
    for text in TEXTS:
        tokens = tokenizer(text)["input_ids"]
        served_values, served_first = served_logprobs(service, tokens)
        values, first = reference_logprobs(MODEL, tokens, torch.bfloat16)
        differences += [abs(a - b) for a, b in zip(served_values, values, strict=True)]
        agreements += [a == b for a, b in zip(served_first, first, strict=True)]
    assert len(differences) > 150
    print(f"mean |delta| {sum(differences) / len(differences):.4f}, top-1 {sum(agreements) / len(agreements):.4f}")
    assert sum(differences) / len(differences) <= MEAN_DIFFERENCE
    assert sum(agreements) / len(agreements) >= TOP_1_AGREEMENT


def test_its_own_template_is_rendered_as_its_tokenizer_does(service: Service) -> None:
    conversation = [{"role": "user", "content": "What does the liver do?\n"}]
    response = service.post(
        "/v1/chat/completions",
        {"model": "model", "messages": conversation, "max_tokens": 1, "return_token_ids": True},
    )
    response.raise_for_status()
    expected = AutoTokenizer.from_pretrained(MODEL).apply_chat_template(
        conversation, add_generation_prompt=True, return_dict=False
    )
    assert response.json()["prompt_token_ids"] == expected
