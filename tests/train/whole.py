"""What the ranks of a Learner hold, put together."""

from torch import Tensor

from jobs.train.learner import Learner
from jobs.train.one_rank import WholeRows


def whole_gradients(learner: Learner) -> dict[str, Tensor]:
    """The gradient of every trained parameter in full, on every rank."""
    return {
        name: rows.gradient if isinstance(rows, WholeRows) else rows.parameter.grad.full_tensor()
        for name, rows in learner.sharded.rows.items()
        if rows.parameter.requires_grad
    }
