"""The names of the figures that a gate may bound."""

from __future__ import annotations

import pytest

from pipeline.errors import ModelError
from pipeline.factory.gates.figures import FIGURES, check_names, known_figures
from pipeline.factory.gates.gate import Gate
from pipeline.factory.gates.gates import default_gate
from schemas.messages import Task


@pytest.mark.parametrize("task", FIGURES)
@pytest.mark.parametrize("answered", [True, False])
def test_every_task_knows_what_its_own_gate_bounds(task: Task, answered: bool) -> None:
    check_names(default_gate(task, answered=answered), task, answered=answered)
    assert "max_difference_in_other_batches" in known_figures(task)


def test_a_misspelt_figure_is_refused_with_the_nearest_that_there_is() -> None:
    with pytest.raises(ModelError, match=r"names top_1_agreement, .* measured here\. Is top1_agreement meant\?"):
        check_names(Gate(at_least={"top_1_agreement": 0.9}), "image-classification")
    with pytest.raises(ModelError, match=r"names zzz, which is not measured here\. There are fp32_perplexity, "):
        check_names(Gate(at_most={"zzz": 1}), "text-generation")


def test_a_figure_that_takes_right_answers_is_refused_where_there_are_none() -> None:
    gate = Gate(at_least={"accuracy": 0.9})
    check_names(gate, "text-classification")
    with pytest.raises(ModelError, match=r"names accuracy, .* evaluation samples with the right answer"):
        check_names(gate, "text-classification", answered=False)
