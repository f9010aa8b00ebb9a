"""What a worker did and found, in files that outlive a crash of it."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

__all__ = ["COUNTS", "FAULTS", "Report"]

COUNTS = ("beats", "calls", "interrupts", "inside", "sampled", "helping", "forks")
"""beats: steps, by which a hang is told from work.   inside: interrupts that hit a kernel or the code around it.
sampled: interrupts at which the other threads were looked at.   helping: of these, where one was at work."""

FAULTS = ("crash", "hang", "wrong bits", "canary", "inputs", "threads", "memory", "exception")
"""canary: a write into memory of others.   inputs: a write into an input.   threads: more than allowed.
memory: the process grows.   exception: another one than what was injected."""


class Report:
    """Counts in shared memory, which forked children add to as well, and faults as lines of a file."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "faults.txt"
        self.counts_path = folder / "counts"
        if not self.counts_path.exists():
            self.counts_path.write_bytes(bytes(8 * len(COUNTS)))
        self._faults = os.open(self.path, os.O_CREAT | os.O_APPEND | os.O_RDWR, 0o600)
        file = os.open(self.counts_path, os.O_RDWR)
        self._memory = mmap.mmap(file, 8 * len(COUNTS))
        os.close(file)
        self._counts = memoryview(self._memory).cast("q")

    def count(self, name: str, by: int = 1) -> None:
        """Add to a count. Threads may lose an addition to each other: these numbers are for information."""
        self._counts[COUNTS.index(name)] += by

    def counts(self) -> dict[str, int]:
        return dict(zip(COUNTS, self._counts))

    def fault(self, fault: str, detail: str) -> None:
        """One line, written at once: neither a fork nor a crash loses or doubles it."""
        assert fault in FAULTS, fault
        os.write(self._faults, f"{fault}\t{' '.join(detail.split())}\n".encode())

    def faults(self) -> list[tuple[str, str]]:
        lines = self.path.read_text(errors="replace").splitlines()
        return [(fault, detail) for fault, _, detail in (line.partition("\t") for line in lines)]
