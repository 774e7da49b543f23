"""`millrace models optimize`, and the part of `build` that does the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
import msgspec

from console.models.describe import megabytes, summary
from console.models.gate import BOUND, gate_of
from console.models.parameters import SAMPLES
from console.models.samples import find_samples
from console.models.show import variant_tables
from console.output import Output, json_option
from console.progress import step_progress
from pipeline.models.card import VARIANTS, VariantName
from pipeline.models.store import ServedModel, read_model
from pipeline.settings import Settings, load_settings

__all__ = ["OptimizeOptions", "optimize", "optimize_model", "optimize_options"]

Command = TypeVar("Command", bound=Callable[..., Any])
EVALUATION = "What variants are measured on; of models that write text, 64 tokens each of the first 16 samples."


class OptimizeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be made, on which samples, and within which bounds."""

    variants: tuple[VariantName, ...] = ()
    calibration: tuple[str, ...] = ()
    evaluation: tuple[str, ...] = ()
    gate: tuple[tuple[str, str, float], ...] = ()


def optimize_options(command: Command) -> Command:
    """The options of :class:`OptimizeOptions`, each of which may be given several times."""
    for option in (
        click.option("--gate", multiple=True, type=BOUND, help="In the place of the task's own bounds."),
        click.option("--evaluation", multiple=True, type=SAMPLES, help=EVALUATION),
        click.option("--calibration", multiple=True, type=SAMPLES, help="What INT8 ranges are taken from."),
        click.option("--variant", "variants", multiple=True, type=click.Choice(VARIANTS), help="What to make."),
    ):
        command = option(command)
    return command


@click.command(
    epilog="Example: millrace models optimize my-model --calibration photos/ --evaluation labelled/ "
    '--gate "top1_agreement>=0.97"'
)
@click.argument("name", metavar="NAME[@VERSION]")
@optimize_options
@json_option
def optimize(name: str, *, as_json: bool, **options: Any) -> int:
    """Make variants of a model (INT8 without --variant) and admit those that measurement allows.

    Each is compared with FP32 on the evaluation samples, and must give a record the same result in any batch. A variant
    outside the gate is left out, with its figures in the card. Exit status 1 if one that was asked for is left out.

    Samples: a folder of images (sub-folders are labels), a JSONL file (text or image, label or answer), or records of a
    Kafka topic, from one offset to another, both included. With one of --calibration and --evaluation, every second
    sample is for calibration; with neither, Millrace's own photos and sentences are taken.
    """
    settings, output = load_settings(), Output(as_json=as_json)
    model, missing = optimize_model(read_model(name, settings), OptimizeOptions(**options), settings, output)
    if as_json:
        output.document(summary(model, settings))
    return int(bool(missing))


def optimize_model(
    model: ServedModel, options: OptimizeOptions, settings: Settings, output: Output
) -> tuple[ServedModel, Sequence[VariantName]]:
    """Optimize ``model`` and say what came of it; the model as it is then, and the variants that were left out."""
    from pipeline.factory.gates.figures import check_names
    from pipeline.factory.gates.speed import no_faster
    from pipeline.factory.optimize import optimize as optimize_version

    wanted, gate = options.variants or ("int8",), gate_of(options.gate)
    if gate is not None:
        check_names(gate, model.card.task)  # before samples are fetched
    with step_progress(output, model.spec) as step:
        calibration, evaluation = find_samples(model, options.calibration, options.evaluation, output, step)
        card = optimize_version(
            model,
            variants=wanted,
            calibration=calibration,
            evaluation=evaluation,
            gate=gate,
            settings=settings,
            progress=step,
        )
    finished = read_model(f"{card.name}@{card.version}", settings)
    missing = [variant for variant in wanted if variant not in card.variants]
    if not output.as_json:
        for table in variant_tables(card):
            output.people.print(table)
    for variant in missing:
        output.warn(f"{variant} is left out: {card.rejected[variant].reason}")
    for variant in (variant for variant in wanted if variant not in missing):
        if "cpu" in card.variants[variant].providers and (speeds := no_faster(card.variants[variant].measured)):
            output.warn(f"{variant} is no faster than fp32 on this machine: {speeds}. It is admitted for its accuracy.")
    output.say(f"{finished.spec} has {', '.join(card.variants)}: {megabytes(finished)}")
    return finished, missing
