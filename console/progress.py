"""Progress bars on a terminal; elsewhere a line at the start, so that a log says what is being waited for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from console.output import Output

__all__ = ["byte_progress", "step_progress"]


@contextmanager
def byte_progress(output: Output, what: str) -> Iterator[Callable[[int, int], None]]:
    """A callback of (bytes done, bytes in all). Nothing is shown before its first call."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=output.people,
        disable=not output.interactive,
        transient=True,
    )
    task = bar.add_task(what, start=True, visible=False)
    said = False

    def update(done: int, total: int) -> None:
        nonlocal said
        if not output.interactive and not said:
            output.say(f"{what} ({total / 1e6:.0f} MB)")
        said = True
        bar.start()
        bar.update(task, completed=done, total=total, visible=True)

    try:
        yield update
    finally:
        bar.stop()


@contextmanager
def step_progress(output: Output, name: str) -> Iterator[Callable[[str], None]]:
    """A callback of what is being done for ``name``: a spinner on a terminal, one line a step elsewhere."""
    if not output.interactive:
        yield lambda step: output.say(f"{name}: {step}")
        return
    with output.people.status(name) as status:
        yield lambda step: status.update(f"{name}: {step}")
