"""A function over many tasks on every core, in order, with few of them in flight."""

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

CHUNK = 16  # tasks that travel together
CHUNKS_PER_WORKER = 4  # in flight: what bounds the memory


def n_cores() -> int:
    """Those this process may use, which a batch system may have limited."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_parallel(
    function: Callable[[Task], Result], tasks: Iterable[Task], workers: int
) -> Iterator[Result]:
    """`function` of each task, in their order; a generator of tasks is drawn from as results are taken.

    Raises:
        UserError: a worker died. What the function raises, it raises here.
    """
    if workers == 1:
        yield from map(function, tasks)
        return
    pool = ProcessPoolExecutor(workers, initializer=_begin_worker)
    flying: deque[Future[list[Result]]] = deque()
    remaining = iter(tasks)
    try:
        while chunk := list(islice(remaining, CHUNK)):
            flying.append(pool.submit(_apply, function, chunk))
            if len(flying) == CHUNKS_PER_WORKER * workers:
                yield from flying.popleft().result()
        while flying:
            yield from flying.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process died (out of memory?): start the same command again, it continues"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _apply(function: Callable[[Any], Any], chunk: list[Any]) -> list[Any]:
    return [function(task) for task in chunk]


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent, its memory shared, and no orphan behind if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := parent_process():
        parent.join()
    os._exit(1)
