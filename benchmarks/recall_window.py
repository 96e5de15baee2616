"""Measures time and memory of the recall window, relative to a plain minimum and maximum per head.

A row is a layout, a dtype and a size of q, k or v. Columns are the plain implementation, and the window of ratio 0.9999
(q and k) and of ratio 1 (v) relative to it. The plain implementation is the fastest of several for the row. One thread
is measured in CPU time, the default number of threads in wall time; values are the lowest of three medians. Each row is
measured in its own process. Linux only.
"""

from __future__ import annotations

import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from fa3cli.numerics.recall_window import recall_window

_SIZES = [(1, 78_125), (4, 78_125), (24, 118_800)]  # (heads, tokens); the last is HunyuanVideo's at 720p
_DIM = 128
_DTYPES = [torch.float32, torch.bfloat16, torch.float16]
_LAYOUTS = ["BHSD", "BSHD"]
_PLAIN: list[Callable[[Tensor], object]] = [
    lambda states: [states[:, head].aminmax() for head in range(states.shape[1])],
    lambda states: (states.amin(dim=(0, 2, 3)), states.amax(dim=(0, 2, 3))),
    lambda states: (states.amin(dim=2).amin(dim=2), states.amax(dim=2).amax(dim=2)),
    lambda states: (states.amin(dim=3).amin(dim=2), states.amax(dim=3).amax(dim=2)),
    lambda states: (
        states.transpose(1, 2).amin(dim=3).amin(dim=1),
        states.transpose(1, 2).amax(dim=3).amax(dim=1),
    ),
]
_WINDOWS = [lambda states: recall_window(states, 0.9999), lambda states: recall_window(states, 1.0)]


def make_states(layout: str, dtype: torch.dtype, heads: int, tokens: int) -> Tensor:
    """Return random states `[1, heads, tokens, 128]`; a transposed view for layout BSHD."""
    generator = torch.Generator().manual_seed(0)
    if layout == "BHSD":
        return torch.empty(1, heads, tokens, _DIM, dtype=dtype).normal_(generator=generator)
    return torch.empty(1, tokens, heads, _DIM, dtype=dtype).normal_(generator=generator).transpose(1, 2)


def measure(cell: tuple[str, torch.dtype, tuple[int, int]]) -> str:
    """Return the row for a layout, a dtype and a size."""
    layout, dtype, (heads, tokens) = cell
    states = make_states(layout, dtype, heads, tokens)
    peak = _peak(states)
    row = f"{layout} {str(dtype)[6:]:8} {heads:2} x {tokens:6} |"
    for threads in (1, torch.get_num_threads()):
        torch.set_num_threads(threads)
        rounds = 9 if states.numel() < 2**26 else 3
        plain, window, whole = _seconds(states, rounds, time.thread_time if threads == 1 else time.perf_counter)
        row += f" {plain * 1e3:7.1f} ms {window / plain:6.2f} {whole / plain:6.2f} |"
    return f"{row} {peak:5.0f} MB of {states.numel() * states.element_size() / 1e6:.0f}"


def _seconds(states: Tensor, rounds: int, clock: Callable[[], float]) -> tuple[float, float, float]:
    """Return the lowest of three medians for the fastest plain implementation, ratio 0.9999 and ratio 1."""
    medians = []
    for _ in range(3):
        times = [[_timed(run, states, clock) for run in (*_PLAIN, *_WINDOWS)] for _ in range(rounds)]
        medians.append([statistics.median(column) for column in zip(*times)])
    *plain, window, whole = map(min, zip(*medians))
    return min(plain), window, whole


def _timed(run: Callable[[Tensor], object], states: Tensor, clock: Callable[[], float]) -> float:
    begin = clock()
    run(states)
    return clock() - begin


def _peak(states: Tensor) -> float:
    """Return the peak of resident memory during a call minus its value before, in MB."""
    for window in _WINDOWS:
        window(states[:, :, :200])  # warm-up: loads the code
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, the peak, to VmRSS
    before = _status("VmRSS")
    recall_window(states, 0.9999)
    return (_status("VmHWM") - before) / 1e3


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def main() -> None:
    print(f"                           | one thread               | {torch.get_num_threads()} threads                |")
    print("layout, dtype, heads x S   |      plain 0.9999      1 |      plain 0.9999      1 | memory above the states")
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for row in pool.imap(measure, list(itertools.product(_LAYOUTS, _DTYPES, _SIZES)), chunksize=1):
            print(row, flush=True)


if __name__ == "__main__":
    main()
