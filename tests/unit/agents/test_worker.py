"""A worker's signals."""

from __future__ import annotations

import asyncio
import os
import signal

from agents.worker import _stop_on_signals
from tests.waiting import PATIENCE_S


def test_sigterm_stops_a_worker_and_is_not_fatal_to_one_whose_loop_has_closed() -> None:
    async def stopped() -> None:
        stop = _stop_on_signals()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(stop.wait(), PATIENCE_S)

    before = signal.getsignal(signal.SIGTERM)
    try:
        asyncio.run(stopped())
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
