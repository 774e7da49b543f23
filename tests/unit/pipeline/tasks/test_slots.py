from __future__ import annotations

import pytest

from pipeline.runtime.fakes import FakeTokenizer
from pipeline.runtime.session import Floats, IntArray, Logits, SessionError
from pipeline.tasks.sequence import Prompt, TextSequence
from pipeline.tasks.slots import Slots
from pipeline.tasks.task import Job
from schemas.messages import TextInput
from tests.unit.pipeline.helpers import text_request


class Moves:
    provider = "cpu"

    def __init__(self, fails: bool = False) -> None:
        self.made: list[tuple[int, int, int]] = []
        self.fails = fails

    def step(self, first: int, input_ids: IntArray, lengths: IntArray, image_embeds: Floats | None = None) -> Logits:
        raise NotImplementedError

    def move(self, source: int, target: int, length: int) -> None:
        if self.fails:
            raise SessionError("no copy")
        self.made.append((source, target, length))


def sequence() -> TextSequence:
    prompt = Prompt(tokens=(1, 2, 3), options=TextInput(prompt="x"), outcome_id="aa")
    job = Job(ticket=0, request=text_request(), prepared=prompt, weight=3, ready_at=0.0)
    return TextSequence(job, FakeTokenizer(), {9}, 100)


def decoding(count: int, slots: int = 8) -> tuple[Slots, list[TextSequence]]:
    batch, sequences = Slots(slots), [sequence() for _ in range(count)]
    for item in sequences:
        batch.add(item)
        batch.reader()
        batch.start_decoding()
        item.filled = 3
    return batch, sequences


def test_sequences_take_the_first_slots_in_the_order_they_came() -> None:
    _, sequences = decoding(3)
    assert [item.slot for item in sequences] == [0, 1, 2]


def test_the_last_sequence_moves_into_the_gap_that_one_leaves() -> None:
    batch, sequences = decoding(4)
    batch.take(lambda item: item is sequences[1])
    batch.compact(moves := Moves())
    assert moves.made == [(3, 1, 3)]
    assert [item.slot for item in batch.decoding] == [0, 1, 2]


def test_nothing_moves_when_the_last_one_leaves() -> None:
    batch, sequences = decoding(4)
    batch.take(lambda item: item is sequences[3])
    batch.compact(moves := Moves())
    assert moves.made == []


def test_a_reader_stays_in_its_slot_until_it_decodes_and_then_moves_down() -> None:
    batch, sequences = decoding(4)
    batch.add(late := sequence())
    assert batch.reader() is late
    assert late.slot == 4
    batch.take(lambda item: item in sequences[:2])
    batch.compact(moves := Moves())
    assert late.slot == 4
    late.filled = 5
    batch.start_decoding()
    batch.compact(moves)
    assert moves.made[-1] == (4, 2, 5)
    assert [item.slot for item in batch.decoding] == [0, 1, 2]


def test_free_counts_all_who_have_or_wait_for_a_slot() -> None:
    batch, _ = decoding(2, slots=4)
    batch.add(sequence())
    batch.reader()
    assert batch.free() == 1
    batch.add(sequence())
    assert batch.free() == 0


def test_a_waiting_and_a_reading_sequence_can_be_taken_out() -> None:
    batch, _ = decoding(1)
    first, second = sequence(), sequence()
    batch.add(first)
    batch.add(second)
    batch.reader()
    assert batch.take(lambda item: item in (first, second)) == [first, second]
    assert len(batch) == 1
    assert batch.reader() is None


def test_a_failed_copy_loses_nobody() -> None:
    batch, sequences = decoding(3)
    batch.take(lambda item: item is sequences[0])
    with pytest.raises(SessionError):
        batch.compact(Moves(fails=True))
    assert list(batch) == sequences[1:]
    batch.restart()
    assert [item.filled for item in batch] == [0, 0]
    assert batch.reader() is sequences[1]


def test_starting_to_decode_without_a_reader_is_a_bug() -> None:
    with pytest.raises(RuntimeError, match="bug"):
        Slots(1).start_decoding()
