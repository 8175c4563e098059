"""Models x held-out sets -> evaluation.json. Needs a connected Ray.

    corpora --first N by id--> documents ─┬─► task: model 1 ─► scores, answers ─┐
                                          ├─► task: model 2 ─► ...              ├─► evaluation.json
                                          └─► task: model 3 ─► ...             ─┘
Each model is one task; as many run at once as the cluster has room for.
"""

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import ray
from ray.exceptions import RayTaskError

from cluster.storage import Store
from configs.errors import user_error_inside
from configs.schema.evaluation import EvaluateStage
from jobs.corpus.collect import read_corpus_split
from jobs.evaluate.heldout import EvaluationError, HeldoutDocument, conversation_prompt, first_documents
from jobs.evaluate.metrics import DocumentScore, compare, summarise
from jobs.evaluate.scorer import Answer, ScorerTask, SetScores, score_model
from jobs.model_files import check_model

EVALUATION = "evaluation.json"
POLL_S = 1.0
"""How soon a wish to stop is heard while models are scored."""
Progress = Callable[[str, int, int], None]
"""progress(label, done, total)"""


@dataclass
class _ModelResults:
    scores: dict[str, list[DocumentScore]] = field(default_factory=dict)
    answers: dict[int, Answer] = field(default_factory=dict)


def evaluate(
    stage: EvaluateStage,
    models: dict[str, Store],
    corpora: dict[str, Store],
    output: Store,
    progress: Progress,
    trusted: Collection[str] = (),
) -> dict[str, Any]:
    """Scores models on held-out documents and lets them answer; writes and returns `evaluation.json`.

    Args:
        models: model directories by name, in the order of `stage.models`.
        corpora: corpus artifacts' contents by stage name.
        output: where evaluation.json goes.
        progress: called with finished and all units: a set or an answer of a model each.
        trusted: names of the models whose Python files may run.

    Returns:
        {"models": [...], "precision": ...,
         "sets": {set: {"rows", "corpus", "documents", "tokens"}},
         "scores": {model: {set: SetScore}}, "changes": {model: {set: Change against the model before it}},
         "documents": {model: {set: [DocumentScore]}},
         "answers": [{"document_id", "prompt": messages, "reference", "answers": {model: Answer}}]}

    Raises:
        EvaluationError: too few held-out documents, a model without chat template, a model that yields NaN.
        ModelError: a model directory that is incomplete.
    """
    tables = {name: read_corpus_split(corpus, "heldout") for name, corpus in corpora.items()}
    sets = {
        name: (chosen, first_documents(tables[chosen.corpus], chosen.rows, chosen.documents, f"sets.{name}.documents"))
        for name, chosen in stage.sets.items()
    }
    prompts: list[HeldoutDocument] = []
    if stage.answers is not None:
        prompts = first_documents(tables[stage.answers.corpus], "messages", stage.answers.prompts, "answers.prompts")
    _check_models(stage, models)
    tasks = {
        name: ScorerTask(
            model=model,
            precision=stage.precision,
            threads=stage.resources.threads_per_rank,
            sets=sets,
            prompts=prompts,
            answer_tokens=stage.answers.max_tokens if stage.answers is not None else 0,
            trust_remote_code=name in trusted,
        )
        for name, model in models.items()
    }
    results = _run_tasks(stage, tasks, progress)
    evaluation = _evaluation(stage, results, prompts)
    output.write_json(EVALUATION, evaluation)
    return evaluation


def _check_models(stage: EvaluateStage, models: dict[str, Store]) -> None:
    needs_template = stage.answers is not None or any(chosen.rows == "messages" for chosen in stage.sets.values())
    for name, model in models.items():
        if needs_template and not check_model(model).has_chat_template:
            raise EvaluationError(
                f"models: {name} has no chat template, which sets with `rows: messages` and answers need. Give its model "
                "stage one, for example `chat_template: instruction`."
            )


def _run_tasks(stage: EvaluateStage, tasks: dict[str, ScorerTask], progress: Progress) -> dict[str, _ModelResults]:
    """Starts all tasks, which Ray queues where there is no room, and takes results as they come."""
    resources = stage.resources
    remote = ray.remote(num_cpus=resources.threads_per_rank, num_gpus=resources.gpus_per_rank)(score_model)
    names: dict[Any, str] = {remote.remote(task): name for name, task in tasks.items()}
    results = {name: _ModelResults() for name in tasks}
    total = sum(len(task.sets) + len(task.prompts) for task in tasks.values())
    done, label = 0, "scoring"
    progress(label, done, total)
    while names:
        ready, _ = ray.wait(list(names), num_returns=1, timeout=POLL_S)
        if not ready:
            progress(label, done, total)  # whoever is told may want to stop
            continue
        generator: Any = ready[0]
        name = names[generator]
        try:
            result = ray.get(next(generator))
        except StopIteration:
            del names[generator]
            continue
        except RayTaskError as error:
            raise user_error_inside(error) or error from None
        done += 1
        match result:
            case SetScores():
                results[name].scores[result.set_name] = result.scores
                label = f"{name}: {result.set_name} scored"
            case Answer():
                results[name].answers[result.document_id] = result
                label = f"{name}: answered"
        progress(label, done, total)
    return results


def _evaluation(
    stage: EvaluateStage, results: dict[str, _ModelResults], prompts: list[HeldoutDocument]
) -> dict[str, Any]:
    names = list(results)
    changes: dict[str, Any] = {}
    for before, after in pairwise(names):
        changes[after] = {
            set_name: asdict(compare(results[before].scores[set_name], results[after].scores[set_name]))
            for set_name in stage.sets
        }
    answers = []
    for document in prompts:
        prompt, reference = conversation_prompt(document)
        by_model = {name: asdict(result.answers[document.document_id]) for name, result in results.items()}
        answers.append(
            {"document_id": document.document_id, "prompt": prompt, "reference": reference, "answers": by_model}
        )
    return {
        "models": names,
        "precision": stage.precision,
        "sets": {name: chosen.model_dump() for name, chosen in stage.sets.items()},
        "scores": {
            name: {set_name: asdict(summarise(scores)) for set_name, scores in result.scores.items()}
            for name, result in results.items()
        },
        "changes": changes,
        "documents": {
            name: {set_name: [asdict(score) for score in scores] for set_name, scores in result.scores.items()}
            for name, result in results.items()
        },
        "answers": answers,
    }
