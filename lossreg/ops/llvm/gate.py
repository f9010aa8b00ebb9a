"""How threads share a call of compiled code: its first slots, and the two ways into it.

Compiled code is entered by the caller, `run`, and by helpers, `help`. Both lead to the same `body`, which claims blocks
of work until none is left. A word of the call, the gate, says whether helpers may enter, and counts those inside:

    run:   open the gate; body; close the gate; wait until nobody is inside
    help:  count myself in; body, if the gate is open; count myself out

So helpers touch the arrays of a call only between the two ends of `run`. That is one call of C for Python: no signal
handler runs and no exception is raised in between, and the caller's frame, which keeps the arrays alive, cannot end.
Before it and after it a helper touches the slots and its own code alone, which its job keeps alive.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

__all__ = ["SHARED_SLOTS", "entries", "shared_slots"]

SHARED_SLOTS = ("gate", "yield", "claimed", "outside")
"""The first slots of a call, 64 bits each: the gate; the address of the function that gives the processor to another
thread; how many blocks are claimed; whether an index was outside of its row."""

OPEN = 2**32
"""The bit of the gate that is set while helpers may enter; the bits below count them."""


def _yield_address() -> int:
    """The address of the system's function that gives the processor to another thread.

    Compiled code gets it as a number: it is kept on disk, and the address is another one in each process.
    """
    function: Any
    if os.name == "nt":
        function = ctypes.WinDLL("kernel32").SwitchToThread  # type: ignore[attr-defined,unused-ignore]
    else:
        function = ctypes.CDLL(None).sched_yield
    return ctypes.cast(function, ctypes.c_void_p).value or 0


shared_slots = (0, _yield_address(), 0, 0)
"""The first slots of a call that begins."""


def entries() -> str:
    """LLVM text of `run(call, scratch)` and `help(call, scratch)` around `body(call, scratch)`."""
    # All changes of the gate are sequentially consistent. So a helper that finds it open has counted itself in before
    # the caller closes it, and the caller sees that; and what helpers wrote is there when the caller sees them leave.
    return f"""
define void @run(ptr %call, ptr %scratch) {{
  %opened = atomicrmw or ptr %call, i64 {OPEN} seq_cst
  call void @body(ptr %call, ptr %scratch)
  %closed = atomicrmw and ptr %call, i64 {~OPEN} seq_cst
  %place = getelementptr i64, ptr %call, i64 {SHARED_SLOTS.index("yield")}
  %yield = load ptr, ptr %place
  br label %look
look:
  %inside = load atomic i64, ptr %call seq_cst, align 8
  %alone = icmp eq i64 %inside, 0
  br i1 %alone, label %leave, label %wait
wait:
  %ignored = call i32 %yield()
  br label %look
leave:
  ret void
}}
define void @help(ptr %call, ptr %scratch) {{
  %before = atomicrmw add ptr %call, i64 1 seq_cst
  %bit = and i64 %before, {OPEN}
  %open = icmp ne i64 %bit, 0
  br i1 %open, label %enter, label %leave
enter:
  call void @body(ptr %call, ptr %scratch)
  br label %leave
leave:
  %after = atomicrmw sub ptr %call, i64 1 seq_cst
  ret void
}}
"""
