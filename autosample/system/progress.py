"""Signs of life on stderr from work that takes longer than two seconds."""

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

PATIENCE = 2.0  # seconds without a progress bar
T = TypeVar("T")


def tracked(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Yields `items`, with a progress bar on stderr if it takes more than 2 s."""
    start, bar, task = time.monotonic(), None, None
    with contextlib.ExitStack() as stack:
        for done, item in enumerate(items, 1):
            yield item
            if bar is None and done < total and time.monotonic() - start > PATIENCE:
                from rich.console import Console
                from rich.progress import Progress

                bar = stack.enter_context(Progress(console=Console(stderr=True), transient=True))
                task = bar.add_task(label, total=total)
            if bar is not None and task is not None:
                bar.update(task, completed=done)


@contextlib.contextmanager
def busy(label: str) -> Iterator[None]:
    """Show `label` on stderr, if that is a terminal, while something runs for more than 2 s."""
    from rich.console import Console

    status = Console(stderr=True).status(label)
    timer = threading.Timer(PATIENCE, status.start)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        status.stop()
