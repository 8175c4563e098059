"""Judged answers as documents: pairs, rankings and thumbs, whatever file they came from.

prompt, answers, ranks --levels--> Judgement --check--> Raw (text and messages: the prompt with its best answer)
"""

from collections.abc import Sequence

import orjson

from jobs.corpus.raw import JudgedAs, Judgement, Message, Raw, RowError

Answer = list[Message]


def judged(
    uri: str,
    judged_as: JudgedAs,
    prompt: Sequence[Message],
    answers: Sequence[Answer],
    ranks: Sequence[float],
    margin: float = 0.0,
) -> Raw:
    """A document of judged answers, best first.

    Args:
        ranks: one for each answer, lower is better, equal ones are a tie.

    Raises:
        RowError: the judgement cannot be learnt from (`check_judgement`).
    """
    levels = {rank: level for level, rank in enumerate(sorted(set(ranks)))}
    order = sorted(range(len(answers)), key=lambda place: ranks[place])
    # A thumb's rank is its level: thumbs down alone must not become the best of one.
    own = [int(ranks[place]) if judged_as == "thumbs" else levels[ranks[place]] for place in order]
    return judged_document(uri, Judgement(judged_as, list(prompt), [answers[place] for place in order], own, margin))


def judged_document(uri: str, judgement: Judgement) -> Raw:
    """The document of a judgement: its text and messages are the prompt with the best answer, so that SFT can start from it.

    A thumb down is never learnt as an answer: it has no messages. Raises RowError.
    """
    check_judgement(judgement)
    best = [*judgement.prompt, *judgement.answers[0]]
    messages: list[Message] = [
        *({**turn, "weight": 0} if turn["role"] == "assistant" else turn for turn in judgement.prompt),
        *judgement.answers[0],
    ]
    text = "\n\n".join(turn["content"] for turn in best)
    return Raw(uri, text, messages if judgement.levels[0] == 0 else None, judgement)


def check_judgement(judgement: Judgement) -> None:
    """Raises RowError where there is nothing to learn, or what there is contradicts itself."""
    if not any(turn["content"].strip() for turn in judgement.prompt):
        raise RowError("no_prompt", "the answers have no prompt in common")
    for number, answer in enumerate(judgement.answers):
        if not answer or not all(turn["content"].strip() for turn in answer):
            raise RowError("empty_answer", f"answer {number} has no text")
        if answer[-1]["role"] != "assistant":
            raise RowError("no_answer", f"answer {number} ends with a message of the {answer[-1]['role']}")
    if judgement.judged_as == "thumbs":
        return
    if len(judgement.answers) < 2:
        raise RowError("one_answer", "one answer alone is no preference")
    if len(set(judgement.levels)) == 1:
        raise RowError("all_tied", f"all {len(judgement.answers)} answers are equally good")
    if len({orjson.dumps(answer) for answer in judgement.answers}) < len(judgement.answers):
        raise RowError("identical_answers", "two of the answers are the same")
    if judgement.margin < 0:
        raise RowError(
            "negative_margin", f"the margin is {judgement.margin}: the rejected answer would be the better one"
        )


def first_question(messages: Sequence[Message]) -> list[Message]:
    """All before the first answer: documents that share it belong to the same side of the split."""
    for number, turn in enumerate(messages):
        if turn["role"] == "assistant":
            return list(messages[:number])
    return list(messages)


def dump(judgement: Judgement) -> str:
    """As the corpus keeps it."""
    return orjson.dumps(judgement).decode()


def load(text: str) -> Judgement:
    return Judgement(**orjson.loads(text))
