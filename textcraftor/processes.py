"""The processes that train together: their device, what they exchange, and interruptions."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from textcraftor.diffusion.devices import find_device

_VALIDATION_TIMEOUT = timedelta(hours=6)
"""How long other processes wait for the first one, which validates."""

_INTERRUPTED = b"\ninterrupted: saving after this update; interrupt again to end at once\n"


class Processes:
    """The processes of a run, seen from this one. A run without ``accelerate launch`` has one.

    Args:
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        trackers: Trackers of accelerate.
        folder: Folder of the run, where trackers write.

    Raises:
        UnknownName: For an unknown device.
        ConfigError: If this machine does not have the device.
    """

    def __init__(self, device: str, trackers: Sequence[str], folder: Path) -> None:
        import torch
        from accelerate import Accelerator
        from accelerate.utils import InitProcessGroupKwargs

        device = find_device(device)
        if ":" in device:
            torch.cuda.set_device(device)  # accelerate uses the current device
        self.accelerator: Any = Accelerator(
            cpu=device == "cpu",
            mixed_precision="no",  # the loop sets precision itself, whatever accelerate is configured to
            gradient_accumulation_steps=1,
            log_with=list(trackers) or None,
            project_dir=str(folder),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=_VALIDATION_TIMEOUT)],
        )
        self.interrupted = False
        """Whether this process was asked to stop within `interruptible`."""

    @property
    def device(self) -> str:
        """Device of this process."""
        return str(self.accelerator.device)

    @property
    def main(self) -> bool:
        """Whether this is the process that validates, writes and reports."""
        return bool(self.accelerator.is_main_process)

    @property
    def index(self) -> int:
        """Number of this process."""
        return int(self.accelerator.process_index)

    @property
    def count(self) -> int:
        """Number of processes."""
        return int(self.accelerator.num_processes)

    def gather(self, values: Sequence[float]) -> list[list[float]]:
        """Return the numbers of every process, in the order of the processes."""
        if self.count == 1:
            return [list(values)]
        import torch

        row = torch.tensor([values], dtype=torch.float64, device=self.accelerator.device)
        rows: list[list[float]] = self.accelerator.gather(row).tolist()
        return rows

    def any(self, flag: bool) -> bool:
        """Return in every process whether ``flag`` is true in one of them."""
        return any(row[0] for row in self.gather([flag]))

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a first SIGINT (Ctrl-C) or SIGTERM within the block set `interrupted` and do nothing else.

        A second signal acts as usual. Shells let background processes of a script ignore SIGINT; within the
        block they handle it too, so `kill -INT` saves and ends the run.
        """
        if threading.current_thread() is not threading.main_thread():  # others cannot handle signals
            yield
            return
        usual: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
        before = {n: h for n in usual if (h := signal.getsignal(n)) is not None}

        def request(number: int, frame: object) -> None:
            self.interrupted = True
            for one, handler in before.items():
                signal.signal(one, usual[one] if handler is signal.SIG_IGN else handler)
            if self.main:
                os.write(2, _INTERRUPTED)  # print() may be what the signal interrupted

        for number in before:
            signal.signal(number, request)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
