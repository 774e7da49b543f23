"""What the result store costs: CPU time of a record in an engine on a model that costs nothing, with and without.

CPU time of the whole process, because that is the same on a machine that is busy with other things. A repeat leaves out
preparing and running, so it costs less than no store even here, where the run costs nothing.
"""

from __future__ import annotations

import asyncio
import io
import tempfile
import time
from functools import partial
from pathlib import Path

from PIL import Image

from benchmarks.harness import arguments, in_turn, report
from pipeline.engine import Engine
from pipeline.results.sqlite import SqliteStore
from pipeline.runtime.fakes import FakeBackend, fake_classifier
from pipeline.settings import Settings
from schemas.messages import ImageInput, InferenceRequest, Source

IN_FLIGHT = 512


def main() -> None:
    """Run both sides in turn, and the repeat."""
    args = arguments(__doc__)
    count, runs = (2_000, 1) if args.quick else (5_000, 5)
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        sides = {name: partial(cpu_us, name, Path(folder), count) for name in ("without", "first", "repeat")}
        medians = {name: found["cpu_us"] for name, found in in_turn(sides, runs).items()}
    figures = {f"{name}_cpu_us": value for name, value in medians.items()}
    rows = [
        ("no store", f"{medians['without']:,.0f} us of CPU a record"),
        ("SQLite, every record new", f"{medians['first']:,.0f} us"),
        ("SQLite, every record a repeat", f"{medians['repeat']:,.0f} us"),
    ]
    report("results", figures, rows, args, f"{IN_FLIGHT} records in flight, a fake model")


def cpu_us(side: str, folder: Path, count: int) -> dict[str, float]:
    """Microseconds of CPU a record; ``first`` begins with a new file, which ``repeat`` finds."""
    path = folder / "results.db"
    if side == "first":
        for file in folder.glob("results.db*"):
            file.unlink()
    return {"cpu_us": asyncio.run(_serve(None if side == "without" else path, folder, count))}


async def _serve(path: Path | None, folder: Path, count: int) -> float:
    store = SqliteStore(path, keep_s=3_600, max_bytes=2**30, busy_s=5) if path else None
    engine = Engine(Settings(), [fake_classifier(folder)], backend=FakeBackend(), store=store)
    await engine.start()
    requests = iter([_request(offset) for offset in range(count)])

    async def serve() -> None:
        for request in requests:
            await engine.submit(request)

    start = time.process_time()
    await asyncio.gather(*(serve() for _ in range(IN_FLIGHT)))
    await engine.close()
    return 1e6 * (time.process_time() - start) / count


def _request(offset: int) -> InferenceRequest:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), offset % 256).save(buffer, "PNG")
    source = Source(topic="images", partition=0, offset=offset)
    return InferenceRequest(
        id=f"image-{offset}", source=source, task="image-classification", input=ImageInput(data=buffer.getvalue())
    )


if __name__ == "__main__":
    main()
