"""A fork server: a process that imports torch once and then forks a child for each trainer.

Run by training.py.

A child runs `coordexp.training.launch.main()` (or `coordexp.cli.main.main()`) in a directory of its
own, as a spawned one would. A fault makes it die, or fills its disk, just before a chosen file
event: an audit event of Python (`open`, `os.rename`, …) below results/runs whose arguments contain
a word. With SIMULATED_GPU in its environment it sees a GPU (simulated_gpu.py).

    python tests/fork_server.py [MODULE …]   serves requests on stdin, a JSON object a line (see
                                             `serve`); the modules are imported beforehand, too
"""

from __future__ import annotations

import errno
import importlib
import itertools
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

# The module whose main() an entry names; `count` counts tokens here.
ENTRIES = {"train": "coordexp.training.launch", "cli": "coordexp.cli.main"}


def serve() -> None:
    """Requests: {"poll": pid} -> {"returncode": null | int}; anything else is a child to start ->
    {"pid": …}.
    """
    import torch

    import coordexp.cli.arguments
    import coordexp.cli.main
    import coordexp.training.launch
    import coordexp.training.train  # noqa: F401

    for module in sys.argv[1:]:
        importlib.import_module(module)
    torch.set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = {"returncode": os.waitstatus_to_exitcode(status) if pid else None}
        else:
            sys.stdout.flush()
            pid = os.fork()
            if not pid:
                run_child(request)
            answer = {"pid": pid}
        print(json.dumps(answer), flush=True)


def run_child(request: dict[str, Any]) -> NoReturn:
    """The forked child. Jobs of a shell in the background ignore SIGINT, and so would it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for fd, file in ((0, os.devnull), (1, request["files"][0]), (2, request["files"][1])):
        os.dup2(os.open(file, os.O_RDWR), fd)
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    sys.argv = [request["entry"], *request["arguments"]]

    def run() -> None:
        if os.environ.get("SIMULATED_GPU"):
            from simulated_gpu import pretend

            pretend()
        if request["fault"]:
            FAULTS[request["fault"][0]](*request["fault"][1:])
        if request["entry"] == "count":
            count_tokens(request["arguments"])
        else:
            sys.modules[ENTRIES[request["entry"]]].main()

    end_after(run)


def end_after(run: Callable[[], object]) -> NoReturn:
    """Call `run`, and end this process as an interpreter would whose program it was."""
    code: Any = 0
    try:
        run()
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:  # noqa: BLE001 as the interpreter would
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def count_tokens(overrides: list[str]) -> None:
    """Print [text, coordinate] tokens of each optimizer step of this configuration."""
    from coordexp.config.compose import compose
    from coordexp.data.batches import Dataset, step_indices
    from coordexp.models.processor import load_processor
    from coordexp.storage.identity import base_path, data_path

    cfg = compose(overrides)
    dataset = Dataset(data_path(cfg) / "train.jsonl", load_processor(base_path(cfg) / "model"))
    steps = range(1, cfg.train.max_steps + 1)
    batches = [
        dataset.batch(step_indices(len(dataset), cfg.train.images_per_step, cfg.seed, step))
        for step in steps
    ]
    print(json.dumps([[batch.n_text, batch.n_coord] for batch in batches]))


def before_event(event: str, word: str, count: int, act) -> None:
    """Call `act` just before the count-th file event of this name (or any, if empty) on a path that
    contains `word`.
    """
    seen = itertools.count(1)

    def hook(name: str, arguments: tuple) -> None:
        if name not in (
            "open",
            "os.rename",
            "os.remove",
            "os.mkdir",
            "os.rmdir",
            "os.truncate",
            "shutil.rmtree",
        ):
            return
        text = " ".join(str(a) for a in arguments[:2])
        if (
            (not event or name == event)
            and "results/runs" in text
            and word in text
            and next(seen) == count
        ):
            act()

    sys.addaudithook(hook)


def die_before(event: str, word: str = "", count: int = 1) -> None:
    before_event(event, word, count, lambda: os.kill(os.getpid(), signal.SIGKILL))


def signal_before(number: int, times: int, event: str, word: str = "", count: int = 1) -> None:
    def send() -> None:
        for _ in range(times):
            os.kill(os.getpid(), number)

    before_event(event, word, count, send)


def signal_in(number: int, module: str, function: str, count: int = 1) -> None:
    """Send the signal when this function of a module is called for the count-th time."""
    home, seen = importlib.import_module(module), itertools.count(1)
    original = getattr(home, function)

    def signalled(*arguments: Any, **more: Any) -> Any:
        if next(seen) == count:
            os.kill(os.getpid(), number)
        return original(*arguments, **more)

    setattr(home, function, signalled)


def fill_disk_before(event: str, word: str, ballast: str, spare_bytes: int = 0) -> None:
    """Leave `spare_bytes` free on the disk where the file `ballast` lies."""

    def fill() -> None:
        with open(ballast, "ab", buffering=0) as handle:
            for size in (1 << 16, 1 << 12, 1):
                with suppress(OSError):  # no space left
                    while handle.write(bytes(size)):
                        pass
            handle.truncate(handle.tell() - spare_bytes)

    before_event(event, word, 1, fill)


def fail_sync_of(word: str) -> None:
    """fsync of a path that contains `word` reports a full disk, as it does where writing is
    delayed.
    """
    fsync = os.fsync

    def failing(fd: int) -> None:
        if word in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(fd)

    os.fsync = failing


def stop_until_traced() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def divide_loss_again() -> None:
    """The bug the note audits: the loss is divided by the accumulation count once more."""
    from coordexp.losses import fused

    total_loss = fused.total_loss
    fused.total_loss = lambda *arguments: total_loss(*arguments) / 4


def halve_backward() -> None:
    """The loss stays right."""
    from planted import FAULTS as PLANTED

    PLANTED["halved backward"]().start()


FAULTS = {
    f.__name__: f
    for f in (
        die_before,
        signal_before,
        signal_in,
        fill_disk_before,
        fail_sync_of,
        stop_until_traced,
        divide_loss_again,
        halve_backward,
    )
}

if __name__ == "__main__":
    serve()
