"""Scores of a reward model on a known scale: mean 0 and standard deviation 1 over known answers.

    trained reward model --measure_scale, judged answers--> RewardScale --> reward.json beside the weights
    frozen scorer: (score - mean) / standard deviation

Only differences of scores are learnt, so their level and spread are accidents of a run; a KL penalty or a clip on rewards
means the same with every reward model only on a common scale (Ziegler et al. 2019, arXiv 1909.08593, section 2.2).
"""

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from cluster.storage import Store
from configs.errors import RunFailed
from configs.schema.training import TrainStage
from jobs.train.reader import RowReader

if TYPE_CHECKING:
    from jobs.train.learner import Learner

FILE = "reward.json"
MOST_ROWS = 256
"""Rows of answers that are scored: with 512 answers of pairs the mean is known to 0.04 standard deviations."""


@dataclass(frozen=True)
class RewardScale:
    """Where the scores of a reward model lie.

    Example:
        RewardScale(mean=-1.3, standard_deviation=0.8, answers=512)
    """

    mean: float
    standard_deviation: float
    answers: int
    """Over how many answers."""

    def normalised(self, scores_S: Tensor) -> Tensor:
        """Scores in standard deviations from the mean."""
        return (scores_S - self.mean) / self.standard_deviation


def write_scale(scale: RewardScale, directory: Store) -> None:
    """Beside the weights it belongs to."""
    directory.write_json(FILE, asdict(scale))


def read_scale(directory: Store) -> RewardScale | None:
    """None for a model that no reward stage has made."""
    return RewardScale(**directory.read_json(FILE)) if directory.exists(FILE) else None


def scale_of(count: float, total: float, squares: float) -> RewardScale:
    """Mean and (population) standard deviation from sums over scores, in fp64.

    Raises:
        RunFailed: the scores do not differ, so that there is nothing to scale.
    """
    mean = total / count if count else math.nan
    variance = squares / count - mean * mean if count else math.nan
    # Sums of fp32 scores: below this relative size the difference of the two terms is rounding.
    if not variance > 1e-12 * squares / max(count, 1):
        raise RunFailed(
            f"the reward model gives {int(count)} answers the same score ({mean:.4g}); train longer, or look at its shards"
        )
    return RewardScale(mean, math.sqrt(variance), int(count))


def measure_scale(learner: "Learner", stage: TrainStage, shards: Store) -> RewardScale:
    """Over judged answers of the held-out split, of the train split where the stage measures nothing held out.

    All ranks call it together.
    """
    split = "train" if stage.heldout is None else "heldout"
    reader = RowReader(
        shards, split, 0, MOST_ROWS, dist.get_rank(), dist.get_world_size(), stage.micro_batch_tokens, False,
        most_rows=MOST_ROWS,
    )  # fmt: skip
    sums_3 = torch.zeros(3, dtype=torch.float64)
    for batch in reader.read(0).micro_batches:
        scores_S = learner.forward(batch).cpu().double()
        judged_S = scores_S[batch.answers.answer_lengths() > 0]
        sums_3 += torch.stack([torch.ones_like(judged_S).sum(), judged_S.sum(), judged_S.square().sum()])
    reader.close()
    return scale_of(*learner.sums_over_ranks(sums_3))
