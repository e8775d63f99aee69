"""Stop a run between two optimizer steps, because a scheduler or a person asks for it.

Schedulers send SIGTERM or SIGUSR1 some time before they kill a job, at a time limit or a
preemption. SIGINT is Ctrl-C. The run writes its state at the end of the step and ends with a code
that tells the scheduler to start the same command again.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import torch

from coordexp.errors import RESUME, Interrupted
from coordexp.training.setup import save_progress
from coordexp.training.step import Training

EXIT_CODES = {signal.SIGTERM: RESUME, signal.SIGUSR1: RESUME, signal.SIGINT: 130}


@dataclass
class StopRequest:
    """The signal that asked this process to stop; 0 as long as none did."""

    signal: int = 0

    def note(self, number: int, _: FrameType | None) -> None:
        """Handler: keep the first signal. A second Ctrl-C stops at once, without a state."""
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or number


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Note the signals of EXIT_CODES instead of dying of them.

    A signal that the process ignores stays ignored (background jobs of a shell ignore SIGINT). Only
    the main thread can set handlers: elsewhere nothing is noted.
    """
    request = StopRequest()
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in EXIT_CODES:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, request.note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_if_asked(t: Training, request: StopRequest) -> None:
    """Write the state and stop, if a signal came to any rank: all ranks stop at the same step.

    Raises:
        Interrupted: with the exit code; only the main rank's has a message.
    """
    number = request.signal
    if t.accelerator.num_processes > 1:
        asked = torch.tensor([number], device=t.accelerator.device)
        number = int(t.accelerator.gather(asked).max())
    if not number:
        return
    message = ""
    if t.accelerator.is_main_process:
        save_progress(t)
        message = (
            f"{t.cfg.variant.name} s{t.cfg.seed}: interrupted at step "
            f"{t.progress.step}/{t.cfg.train.max_steps}: the same command continues"
        )
    t.accelerator.wait_for_everyone()
    raise Interrupted(message, EXIT_CODES[signal.Signals(number)])
