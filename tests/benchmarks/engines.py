"""What a training step is compared between: the engine, alone and on two ranks, and a bare loop over the same modules.

Each function prepares and returns `step(micro_batches, loss_function) -> loss`.
"""

import multiprocessing
import tempfile
from collections.abc import Callable
from typing import Any, Literal

LEARNING_RATE = 1e-5
Step = Callable[[list, Any], float]


def learner_of(model: str, ranks: int = 1) -> Any:
    """A loaded Learner of the process group that stands."""
    from cluster.storage import open_store
    from configs.schema.training import Optimizer
    from jobs.train.fsdp import build_mesh
    from jobs.train.learner import Learner, LearnerSpec

    learner = Learner(LearnerSpec(open_store(model), "bf16", Optimizer()), build_mesh(ranks))
    learner.load()
    return learner


def learner_on_one_rank(model: str) -> Any:
    """The engine as every host runs it, on one rank."""
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    return learner_of(model)


def learner_step(learner: Any) -> Step:
    def step(batches: list, loss_function: Any) -> float:
        return learner.step(LEARNING_RATE, learner.forward_backward(batches, loss_function)).loss

    return step


def bare_model(model: str, head: Literal["logprobs", "scores", "values"] = "logprobs") -> Any:
    """transformers' model in bf16 with the engine's head, a new one for scores and values."""
    import torch
    from transformers import AutoModelForCausalLM

    from jobs.train.attention import ATTENTION_NAME, register
    from jobs.train.model import PackedModel

    register()
    causal_lm = AutoModelForCausalLM.from_pretrained(model, attn_implementation=ATTENTION_NAME, dtype=torch.bfloat16)
    if head != "logprobs":
        score = torch.nn.Linear(causal_lm.config.hidden_size, 1, bias=False, dtype=torch.bfloat16)
        return PackedModel(causal_lm.model, None, score, head)
    tied = causal_lm.lm_head.weight is causal_lm.model.embed_tokens.weight
    return PackedModel(causal_lm.model, None if tied else causal_lm.lm_head, None)


def bare_step(model: str, head: Literal["logprobs", "values"] = "logprobs") -> Step:
    """A training loop as one would write it: bf16 weights to compute with, fp32 masters, gradients added up in fp32."""
    import torch

    packed = bare_model(model, head).train()
    weights = list(packed.parameters())
    masters = [torch.nn.Parameter(weight.detach().float()) for weight in weights]
    optimizer = torch.optim.AdamW(masters, lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True)

    def step(batches: list, loss_function: Any) -> float:
        loss = 0.0
        for batch in batches:
            share = loss_function(packed(batch, 1.0).values, batch).loss
            share.backward()
            loss += float(share)
            for weight, master in zip(weights, masters, strict=True):
                gradient = weight.grad.float()
                master.grad = gradient if master.grad is None else master.grad.add_(gradient)
                weight.grad = None
        torch.nn.utils.clip_grad_norm_(masters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_copy_(weights, masters)
        return loss

    return step


class TwoRanks:
    """The engine on two ranks of one thread each: this process is the first, and tells the second when to step."""

    def __init__(self, model: str, batches_of_rank: Callable[[int], tuple[list, Any]]) -> None:
        """Args:
        batches_of_rank: rank -> (its micro-batches, the loss function); picklable.
        """
        self._scratch = tempfile.TemporaryDirectory()
        rendezvous = f"file://{self._scratch.name}/rendezvous"
        # A daemon: it ends with this process, however that ends.
        self._second = multiprocessing.get_context("spawn").Process(
            target=_second_rank, args=(model, rendezvous, batches_of_rank), daemon=True
        )
        self._second.start()
        self.learner = _start_rank(0, model, rendezvous)
        self._step, self._work = learner_step(self.learner), batches_of_rank(0)

    def step(self) -> float:
        _tell_second(True)
        return self._step(*self._work)

    def close(self) -> None:
        _tell_second(False)
        self._second.join()
        self._scratch.cleanup()


def _second_rank(model: str, rendezvous: str, batches_of_rank: Callable[[int], tuple[list, Any]]) -> None:
    learner = _start_rank(1, model, rendezvous)
    step, work = learner_step(learner), batches_of_rank(1)
    while _tell_second(False):
        step(*work)


def _tell_second(go_on: bool) -> bool:
    """Collective: what the first rank says, on both."""
    import torch
    import torch.distributed as dist

    word = torch.tensor([float(go_on)])
    dist.broadcast(word, src=0)
    return bool(word.item())


def _start_rank(rank: int, model: str, rendezvous: str) -> Any:
    import torch.distributed as dist

    from jobs.train.fsdp import set_threads

    set_threads(1)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    return learner_of(model, ranks=2)


def state_bytes(learner: Any) -> int:
    """Of the masters and moments this rank holds."""
    return sum(values.numel() * values.element_size() for values in learner.state().values())
