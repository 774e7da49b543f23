"""Right answers of evaluation samples: their labels must be the model's."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from pipeline.errors import ModelError
from pipeline.factory.gates.labels import check_answers
from pipeline.factory.gates.measure import Bench
from pipeline.factory.samples import Sample
from pipeline.models.store import read_model
from pipeline.settings import Settings
from tests.unit.pipeline.factory.tiny_models import mlp_classifier, pictures, settings_for


def test_a_label_that_the_model_does_not_have_is_told_with_its_line_and_what_there_is(tmp_path: Path) -> None:
    model = mlp_classifier(tmp_path)
    right, wrong = (replace(pictures(1)[0], answer=answer, where="a.jsonl, line 7") for answer in ("red", "gren"))
    check_answers(model, [right, pictures(1)[0]])
    said = r"a\.jsonl, line 7: the model has no label 'gren'\. Is green meant\? It has 3: red, green, blue"
    with pytest.raises(ModelError, match=said):
        Bench.of(model, [right, wrong], settings_for(tmp_path))
    with pytest.raises(ModelError, match=r"sample 2: the model has no label 'purple'\. It has 3"):
        check_answers(model, [right, Sample(image=b"", answer="purple")])


def test_the_labels_of_objects_are_looked_up_too(tmp_path: Path) -> None:
    model = read_model("digit-finder-tiny", Settings())
    check_answers(model, [Sample(image=b"", answer='[{"label": "7", "box": [0, 0, 9, 9]}]')])
    said = r"a\.jsonl, line 1: the model has no label 'cat'\. It has 10: 0, 1, 2, 3, 4, \.\.\."
    with pytest.raises(ModelError, match=said):
        check_answers(
            model, [Sample(image=b"", answer='[{"label": "cat", "box": [0, 0, 9, 9]}]', where="a.jsonl, line 1")]
        )


def test_an_answer_of_a_model_without_labels_is_any_text() -> None:
    check_answers(read_model("dialogues-tiny", Settings()), [Sample(text="hello", answer="anything at all")])
