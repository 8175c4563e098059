"""What crosses a process or is written to disk. Frozen, typed, importable without torch, ray or vllm.

    sources -> Document -> (template) -> PackedRow -> PackedBatch (jobs/train/batch.py, tensors)
    prompts -> sampler -> Rollout -> PackedBatch with Actions (jobs/ppo/batches.py)

A packed row is a list of *segments* (one document or conversation each, or a piece of a long document) that must not see
each other. Weights say which tokens are learnt: 1 for every token of a text, 1 for the assistant's tokens of a conversation.
"""

from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a corpus; the row format of corpus Parquet files (see jobs/corpus/schema.py).

    Example:
        Document(document_id=-712..., text="Background. ...", messages=None, judged_as=None, judgement=None, source="pubmed",
                 licence="LicenseRef-NLM", confidentiality="public", uri="pubmed21n1298.xml.gz#32995873", sha256="9f2c...",
                 file="pubmed21n1298.xml.gz", byte_offset=None, byte_length=None)
    """

    document_id: int
    """First 8 bytes of `sha256` as a signed big-endian integer: the same text has the same id everywhere."""
    text: str
    """The cleaned text; for a conversation, the contents of its messages joined by blank lines."""
    messages: str | None
    """JSON list of {"role", "content"} (TRL's conversational type), or None for plain text."""
    judged_as: str | None
    """preferences or thumbs, where `judgement` is given."""
    judgement: str | None
    """JSON of the prompt and its judged answers (jobs/corpus/raw.py, Judgement); `messages` then has the best one."""
    source: str
    licence: str
    confidentiality: str
    uri: str
    """Where the document came from, precise enough to find it again: file and row, page or record id."""
    sha256: str
    """Of the cleaned text in UTF-8, and of the judgement behind it, where there is one. Of the whole text, where `text` has
    lost paragraphs that other documents hold (`repeated_paragraphs`)."""
    file: str
    """The uri of its file; `collected.parquet` of the corpus says what the file was when it was read."""
    byte_offset: int | None
    """Where a row of JSON lies in its file (of a packed file: in what it unpacks to); None for other formats."""
    byte_length: int | None


@dataclass(frozen=True, slots=True)
class PackedRow:
    """At most `context` tokens of whole segments; the row format of shard Parquet files.

    Example:
        PackedRow(input_ids=[5, 9, 2, 7, 2], weights=[0, 1, 1, 0, 1], segment_lengths=[3, 2], document_ids=[-712, 44])
    """

    input_ids: list[int]
    """(T,) tokens of all segments, one after the other; nothing is padded."""
    weights: list[float]
    """(T,) weight of predicting *this* token from those before it in its segment; the first token of a segment has none."""
    segment_lengths: list[int]
    """(S,) lengths that sum to T."""
    document_ids: list[int]
    """(S,) the document each segment came from."""


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A conversation that waits for an answer; the row format of `rows: prompts`.

    Example:
        PromptRow(input_ids=[5, 9, 31], document_id=44, messages='[{"role": "user", "content": "What is pH?"}]',
                  answer="A measure of acidity.")
    """

    input_ids: list[int]
    """(T,) tokens of the prompt with the generation prompt behind it."""
    document_id: int
    messages: str
    """JSON list of {"role", "content"}: the conversation before the answer."""
    answer: str | None
    """What the data answer, where they do: for rewards that compare with it; the policy never sees it."""


@dataclass(frozen=True, slots=True)
class ExampleRow:
    """Answers to one prompt and what people think of them; the row format of `rows: preferences` and `rows: thumbs`.

    Every segment is the prompt and one answer. A pair has two, a ranking three or more. A thumb has its own and, behind it,
    the same prompt with a completion of another row (level -1), from which KTO estimates its KL term.

    Example:
        ExampleRow(input_ids=[5, 9, 2, 5, 7, 2], weights=[0, 1, 1, 0, 1, 1], segment_lengths=[3, 3], document_ids=[44, 44],
                   levels=[0, 1], prompt_lengths=[1, 1], margin=0.0)
    """

    input_ids: list[int]
    """(T,) tokens of all segments, one after the other."""
    weights: list[float]
    """(T,) 1 for the tokens of an answer and its end token, 0 elsewhere."""
    segment_lengths: list[int]
    """(S,)"""
    document_ids: list[int]
    """(S,)"""
    levels: list[int]
    """(S,) 0 is best, equal levels are a tie; of a thumb 0 = up, 1 = down; -1 = a mismatched completion."""
    prompt_lengths: list[int]
    """(S,) tokens of the prompt, before the answer starts."""
    margin: float
    """By how much the chosen answer is better, where the data say it; else 0."""

    def shared_prompts(self) -> list[int]:
        """(S,) how many of its first tokens each segment can take from the first one: the prompt but for its last token.

        0 where the prompts differ (they may be cut differently), where the segment's own prompt is learnt, and for a
        mismatched completion, which is computed apart from the answer before it.
        """
        starts = [0, *accumulate(self.segment_lengths)]
        shared = [0] * len(self.segment_lengths)
        for segment, (start, prompt) in enumerate(zip(starts, self.prompt_lengths, strict=False)):
            together = (self.levels[segment] < 0) == (self.levels[0] < 0)
            same = (
                self.input_ids[start : start + prompt] == self.input_ids[:prompt] and prompt == self.prompt_lengths[0]
            )
            if segment and together and same and not any(self.weights[start : start + prompt]):
                shared[segment] = max(prompt - 1, 0)
        return shared


@dataclass(frozen=True, slots=True)
class Rollout:
    """One answer that a policy sampled to a prompt; what PPO scores and learns from.

    Example:
        Rollout(prompt_id=17, sample=1, prompt_ids=[5, 9], answer_ids=[7, 2], sampler_logprobs=[-0.41, -0.02], finished=True,
                version=3)
    """

    prompt_id: int
    """Rollouts of one prompt have the same id: they are its group."""
    sample: int
    """Which of the prompt's answers, from 0."""
    prompt_ids: list[int]
    """(P,) tokens of the rendered prompt, at least one."""
    answer_ids: list[int]
    """(A,) sampled tokens, at least one, the end token among them where there is one."""
    sampler_logprobs: list[float]
    """(A,) log-probability in nats of each sampled token as the sampler drew it: at the sampling temperature."""
    finished: bool
    """Ended by an end token, not by the length limit."""
    version: int
    """Of the policy weights that sampled it."""


@dataclass(frozen=True, slots=True)
class PromptRequest:
    """A prompt and how many answers are sampled to it: one for each seed.

    Example:
        PromptRequest(prompt_id=17, prompt_ids=[5, 9], seeds=[8812, 1405])
    """

    prompt_id: int
    """Of the rollouts that come back; no other request of the same batch has it."""
    prompt_ids: list[int]
    """(P,) tokens of the rendered prompt, at least one."""
    seeds: list[int]
    """(G,) of the sampler, one an answer, from 0 to 2**63 - 1: a function of (run, step, prompt, sample), so that a step that
    is done again samples the same."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are sampled. There is no top-p and no top-k: what a policy learns from is drawn from the whole of it.

    Example:
        Sampling(temperature=0.7, max_new_tokens=256, end_ids=(2,))
    """

    temperature: float
    """By which logits are divided; above 0."""
    max_new_tokens: int
    """Of an answer, its end token among them."""
    end_ids: tuple[int, ...]
    """Tokens of which each ends an answer and belongs to it."""
