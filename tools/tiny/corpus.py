"""The dialogues: read from ``dialogues/<topic>.<language>.jsonl``, split by dialogue, filled and varied.

A line is ``{"id": ..., "turns": [...], "also": [...]}``; turns alternate, the customer first, and ``also`` holds other
ways to ask the first. Turns may hold slots such as ``{order}``
(:mod:`tools.tiny.slots`), which are filled anew each time a dialogue is drawn, so numbers cannot be learned by heart.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from schemas.messages import ChatMessage
from tools.tiny.slots import SlotValues, draw_slots, slot_values
from tools.tiny.swaps import read_swaps, swap_phrases

__all__ = ["FOLDER", "Dialogue", "Split", "draw", "messages_of", "read_split"]

FOLDER = Path(__file__).parent / "dialogues"
HELD_OUT_SHARE = 0.1
SPLIT_SEED = 20_261_124
ROLES = ("user", "assistant")


class Line(Struct, frozen=True, forbid_unknown_fields=True):
    """One line of a file."""

    id: str
    turns: tuple[str, ...]
    also: tuple[str, ...] = ()


class Dialogue(Struct, frozen=True, kw_only=True):
    """One dialogue as it was written, slots unfilled."""

    id: str
    topic: str
    language: str
    turns: tuple[str, ...]
    also: tuple[str, ...] = ()


class Split(Struct, frozen=True, kw_only=True):
    """The dialogues to train on, and those the model never sees."""

    train: tuple[Dialogue, ...]
    held_out: tuple[Dialogue, ...]


def read_split() -> Split:
    """All dialogues, a tenth of every file held out, always the same ones.

    Raises:
        ValueError: a dialogue has an odd number of turns, or an id is used twice.
    """
    rng = np.random.default_rng(SPLIT_SEED)
    train: list[Dialogue] = []
    held_out: list[Dialogue] = []
    for path in sorted(FOLDER.glob("*.jsonl")):
        dialogues = _read(path)
        count = max(1, round(HELD_OUT_SHARE * len(dialogues)))
        chosen = set(rng.choice(len(dialogues), count, replace=False).tolist())
        held_out += [dialogue for i, dialogue in enumerate(dialogues) if i in chosen]
        train += [dialogue for i, dialogue in enumerate(dialogues) if i not in chosen]
    return Split(train=tuple(train), held_out=tuple(held_out))


def messages_of(dialogue: Dialogue, rng: np.random.Generator) -> list[ChatMessage]:
    """The dialogue as chat messages, its slots filled."""
    filled = draw_slots(_values(dialogue), rng)
    turns = [turn.format_map(filled) for turn in dialogue.turns]
    return [ChatMessage(role=ROLES[i % 2], content=turn) for i, turn in enumerate(turns)]  # type: ignore[arg-type]


def draw(dialogue: Dialogue, rng: np.random.Generator) -> list[ChatMessage]:
    """A variation for training: said in other words, slots filled, perhaps a greeting or a system message before it."""
    values, swaps = _values(dialogue), read_swaps(FOLDER / "swaps.toml")[dialogue.language]
    first = rng.choice([dialogue.turns[0], *dialogue.also])
    asked = msgspec.structs.replace(dialogue, turns=(str(first), *dialogue.turns[1:]))
    messages = [_say(message, swap_phrases(message.content, swaps, rng)) for message in messages_of(asked, rng)]
    if rng.random() < 0.15:
        messages[0] = _say(messages[0], rng.choice(values["greeting"]) + _uncapitalised(messages[0].content))
    messages = [_casual(message, rng) if message.role == "user" else message for message in messages]
    if rng.random() < 0.15:
        messages.insert(0, ChatMessage(role="system", content=str(rng.choice(values["system"]))))
    return messages


def _read(path: Path) -> list[Dialogue]:
    topic, language, _ = path.name.split(".")
    lines = [msgspec.json.decode(line, type=Line) for line in path.read_bytes().splitlines()]
    if len({line.id for line in lines}) != len(lines):
        raise ValueError(f"{path.name}: two dialogues have the same id.")
    for line in lines:
        if len(line.turns) % 2 or not line.turns:
            raise ValueError(f"{path.name}: dialogue {line.id} must end with the assistant's turn.")
    return [Dialogue(id=line.id, topic=topic, language=language, turns=line.turns, also=line.also) for line in lines]


def _values(dialogue: Dialogue) -> SlotValues:
    return slot_values(FOLDER / "slots.toml")[dialogue.language]


def _say(message: ChatMessage, content: str) -> ChatMessage:
    return ChatMessage(role=message.role, content=content)


def _uncapitalised(text: str) -> str:
    keep = text.startswith(("I ", "I'", "Hi", "Hello")) or text[:1].isdigit()
    return text if keep else text[:1].lower() + text[1:]


def _casual(message: ChatMessage, rng: np.random.Generator) -> ChatMessage:
    """Some customers type without capitals, some without the last full stop or question mark."""
    text = message.content
    if rng.random() < 0.12:
        text = text.lower()
    if rng.random() < 0.25:
        text = text.rstrip(".?!。？！") or text
    return _say(message, text)
