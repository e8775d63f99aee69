"""Run a function over many tasks in worker processes, with ordered results and bounded memory."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import parent_process
from typing import Any, TypeVar

from coordexp.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")

CHUNK = 16  # tasks sent to a worker together
CHUNKS_PER_WORKER = 4  # in flight at once: bounds the memory


def n_cores() -> int:
    """Cores that this process may use; a batch system may allow fewer than there are."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_parallel(
    function: Callable[[Task], Result], tasks: Iterable[Task], workers: int
) -> Iterator[Result]:
    """Apply `function` to each task; results come in the order of the tasks.

    Tasks are read only as results are consumed, so few are in memory at a time.

    Raises:
        UserError: a worker died. An exception of `function` is raised here.
    """
    if workers == 1:
        yield from map(function, tasks)
        return
    pool = ProcessPoolExecutor(workers, initializer=_begin_worker)
    pending: deque[Future[list[Result]]] = deque()
    remaining = iter(tasks)
    try:
        while chunk := list(islice(remaining, CHUNK)):
            pending.append(pool.submit(_apply, function, chunk))
            if len(pending) == CHUNKS_PER_WORKER * workers:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process died (out of memory?): start the same command again, it continues"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _apply(function: Callable[[Any], Any], chunk: list[Any]) -> list[Any]:
    return [function(task) for task in chunk]


def _begin_worker() -> None:
    """Ignore Ctrl-C (the parent handles it), keep shared memory shared, end with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := parent_process():
        parent.join()
    os._exit(1)
