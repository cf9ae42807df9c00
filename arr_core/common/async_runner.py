"""An event loop on a thread of its own: coroutines for callers that have no loop, or whose loop must not wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")

CLOSE_TIMEOUT_S = 10.0


class AsyncRunner:
    """Runs coroutines on its own thread. Use as a context manager, or call ``close``."""

    def __init__(self, name: str):
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def __enter__(self) -> AsyncRunner:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def submit(self, coroutine: Coroutine[Any, Any, Result]) -> Future[Result]:
        """A future of the coroutine's result; returns at once."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """The coroutine's result; blocks. A KeyboardInterrupt cancels the coroutine."""
        future = self.submit(coroutine)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self, last: Coroutine[Any, Any, Any] | None = None) -> None:
        """Cancel what is running, run ``last`` (closing connections, for example), and end the loop and its thread."""
        if not self._thread.is_alive():
            if last is not None:
                last.close()
            return
        try:
            self.submit(_cancel_all_then(last)).result(CLOSE_TIMEOUT_S)
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
            self.loop.close()


async def _cancel_all_then(last: Coroutine[Any, Any, Any] | None) -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if last is not None:
        await last
