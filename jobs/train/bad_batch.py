"""What is kept of a batch whose loss is not finite, so that it can be looked at and tried again."""

import torch.distributed as dist
from safetensors.torch import save

from cluster.storage import Store
from jobs.train.reader import StepBatch


def save_bad_batch(artifact: Store, attempt: int, step: int, batch: StepBatch) -> str:
    """Writes this rank's tokens and weights of a step; a sentence that says where they are."""
    directory = artifact.below("attempts", f"{attempt:06d}", "bad_batches", f"step-{step + 1:06d}")
    tensors = {
        f"{number}/{name}": tensor.cpu().contiguous()
        for number, part in enumerate(batch.micro_batches)
        for name, tensor in (
            ("input_ids", part.input_ids_T), ("weights", part.weights_T), ("cu_seqlens", part.cu_seqlens_S1),
        )
    }  # fmt: skip
    rows = ",".join(str(row) for numbers in batch.rows for row in numbers)
    directory.write(f"rank-{dist.get_rank():05d}.safetensors", save(tensors, metadata={"rows": rows}))
    return f"Its tokens are in {directory.root}."
