"""What the demo sends: prompts for both text models, and the digits held out when the tiny classifier was trained."""

from __future__ import annotations

import json

from msgspec import Struct

from agents.clients import NewRecord
from pipeline.settings import KafkaSettings
from schemas.messages import Task

__all__ = ["Sample", "chat_samples", "record_of", "service_samples", "spread"]

CHAT_MODEL = "smollm2-135m"
SERVICE_MODEL = "dialogues-tiny"
CHAT_TOKENS = 40
SERVICE_TOKENS = 48

CHAT_PROMPTS = (
    "What is the capital of Italy?",
    "What is the capital of Japan?",
    "What is the capital city of Germany?",
    "How many days are there in a week?",
    "What is the largest ocean on Earth?",
    "Explain in one sentence why the sky is blue.",
    "What is ice made of?",
    "Give a one-sentence summary of how rain forms.",
    "Suggest a name for a small bakery.",
    "Write one polite sentence that declines an invitation.",
    "What is photosynthesis? One sentence.",
    "Name three primary colors.",
    "List three fruits.",
    "List four seasons of the year.",
    "Name three vegetables.",
    "What is a thermometer used for?",
    "What is the plural of 'mouse'?",
    "What is machine learning in one sentence?",
    "In which country is the Great Wall?",
    "What currency is used in Japan?",
    "Write a subject line for an e-mail about a delayed parcel.",
    "What do plants need to grow?",
    "Why is exercise good for you?",
    "Hello! Who are you?",
)

SERVICE_PROMPTS = (
    "How long does delivery take?",
    "I forgot my password.",
    "What are your opening hours?",
    "Are you open on Sundays?",
    "My parcel has not arrived.",
    "I want to speak to a manager.",
    "How do I change my e-mail address?",
    "What does delivery cost?",
    "How can I pay?",
    "Do you ship abroad?",
    "How long do I have to return something?",
    "When do I get my money back?",
    "Do you speak Chinese?",
    "一般多久能送到？",
    "忘记密码了怎么办？",
    "运费怎么算？",
    "你好",
    "怎么付款？",
    "我要退货。",
    "星期天营业吗？",
    "怎么开发票？",
    "晚上有人在线吗？",
    "谢谢你的帮助。",
    "什么时候能退款？",
)


class Sample(Struct, frozen=True, kw_only=True):
    """One record of the demo.

    Attributes:
        name: unique in a run; the record's key and its request's id.
        value: the record's value: JSON for prompts, an encoded image otherwise.
        question: the prompt, for showing it.
        accepted: labels that count as right, in lower case; empty when it is not scored.
        shown: whether its picture is drawn; all answers are shown.
        kind: what the summary counts it as: ``prompts``, ``photos`` or ``digits``.
    """

    name: str
    kind: str
    task: Task
    model: str
    value: bytes
    question: str = ""
    accepted: frozenset[str] = frozenset()
    shown: bool = True

    def is_right(self, label: str) -> bool:
        """Whether the label counts. ImageNet's labels list synonyms with commas; any of them will do."""
        return any(part.strip().lower() in self.accepted for part in label.split(","))


def record_of(sample: Sample, kafka: KafkaSettings) -> NewRecord:
    """The record that carries the sample: model and id travel as headers."""
    topic = kafka.prompts if sample.task == "text-generation" else kafka.images
    headers = (("id", sample.name.encode()), ("model", sample.model.encode()))
    return NewRecord(topic=topic, value=sample.value, key=sample.name.encode(), headers=headers, name=sample.name)


def chat_samples() -> list[Sample]:
    """Everyday questions for the chat model."""
    return _prompt_samples(CHAT_PROMPTS, CHAT_MODEL, CHAT_TOKENS)


def service_samples() -> list[Sample]:
    """Customers' questions in English and Chinese for the tiny dialogue model."""
    return _prompt_samples(SERVICE_PROMPTS, SERVICE_MODEL, SERVICE_TOKENS)


def spread(*groups: list[Sample]) -> list[Sample]:
    """All samples, each group evenly spread over the whole, so that every kind is seen from the start."""
    placed = [((i + 0.5) / len(group), n, sample) for n, group in enumerate(groups) for i, sample in enumerate(group)]
    return [sample for _, _, sample in sorted(placed, key=lambda entry: entry[:2])]


def _prompt_samples(prompts: tuple[str, ...], model: str, max_tokens: int) -> list[Sample]:
    return [
        Sample(
            name=f"prompt-{number:02}",
            kind="prompts",
            task="text-generation",
            model=model,
            value=_chat(prompt, max_tokens),
            question=prompt,
        )
        for number, prompt in enumerate(prompts, start=1)
    ]


def _chat(prompt: str, max_tokens: int) -> bytes:
    request = {"messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens}
    return json.dumps(request, ensure_ascii=False).encode()
