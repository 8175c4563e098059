"""One file per objective; the name of a stage decides which one it is."""

from configs.schema.training import DpoStage, KtoStage, LanguageModelStage, OrpoStage, RewardStage, TrainStage
from jobs.train.objectives.dpo import Dpo
from jobs.train.objectives.kto import Kto
from jobs.train.objectives.lm import LanguageModel
from jobs.train.objectives.objective import Objective
from jobs.train.objectives.orpo import Orpo
from jobs.train.objectives.reward import Reward


def objective_of(stage: TrainStage) -> Objective:
    """The objective of a training stage."""
    match stage:
        case LanguageModelStage():
            return LanguageModel()
        case RewardStage():
            return Reward(stage.loss)
        case DpoStage():
            return Dpo(stage.loss)
        case KtoStage():
            return Kto(stage.loss)
        case OrpoStage():
            return Orpo(stage.loss)
        case _:
            raise AssertionError(type(stage))


def learns_best_prompt(stage: TrainStage) -> bool:
    """Whether the tokens of the best answer's prompt are learnt too."""
    return isinstance(stage, OrpoStage) and stage.loss.sft_on == "prompt_and_answer"
