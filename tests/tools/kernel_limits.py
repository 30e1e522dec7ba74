"""For every kernel of a notebook under test (see notebooks/conftest.py): its budget of CPU time and
memory, and no network.

A module, not a start-up script, whose names would stand among the notebook's own. A cell fails that
uses up the notebook's 90 CPU-seconds or 3 GB, or that asks for any other machine.
"""

import ast
import ctypes
import os
import socket
import sys
import threading
import time

CPU, MEMORY = (
    float(os.environ.get("MMLIB_NOTEBOOK_CPU", 90)),
    float(os.environ.get("MMLIB_NOTEBOOK_MEMORY", 3)),
)  # seconds, GB


def peak() -> float:
    """GB of this process, at most so far; 0 where the system does not say."""
    try:
        with open(
            "/proc/self/status"
        ) as lines:  # Linux, where getrusage also counts what the parent held at the fork
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e6
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1e9 if sys.platform == "darwin" else 1e6
    )


def spent() -> str:
    """What is used up, in words; "" while all is within the budget."""
    for used, most, what in (
        (time.process_time(), CPU, "CPU-seconds"),
        (peak(), MEMORY, "GB of memory"),
    ):
        if used > most:
            return f"this notebook used {used:.1f} {what}, expected at most {most:g}"
    return ""


class BudgetSpent(Exception):
    """Raised within a cell; it says by itself what is spent."""

    def __str__(self) -> str:
        return spent()


def check_budget() -> None:
    """What every cell does first."""
    if spent():
        raise BudgetSpent


class Checked(ast.NodeTransformer):
    """A cell that first checks the budget; its lines keep their numbers."""

    def visit_Module(self, node: ast.Module) -> ast.Module:
        first = ast.parse("__import__('kernel_limits').check_budget()").body
        return ast.fix_missing_locations(ast.Module(first + node.body, node.type_ignores))


def watch(main: int) -> None:
    """Twice a second; a cell that is running when the budget is spent ends there."""
    while True:
        time.sleep(0.5)
        if spent() and running:  # asked last: the cell may have ended while the answer was read
            running.clear()
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(main), ctypes.py_object(BudgetSpent)
            )


def only_this_machine(connect):
    """``socket.connect``, refusing every address but this machine's."""

    def checked(self, address):
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(
                f"this notebook asked for the network ({address[0]}); notebooks work without one"
            )
        return connect(self, address)

    return checked


running: set[bool] = set()


def begin(shell) -> None:
    """Called once, before the first cell, with the kernel's IPython shell."""
    shell.ast_transformers.append(Checked())
    shell.events.register("pre_run_cell", lambda info: running.add(True))
    shell.events.register("post_run_cell", lambda result: running.clear())
    socket.socket.connect = only_this_machine(socket.socket.connect)
    socket.socket.connect_ex = only_this_machine(socket.socket.connect_ex)
    threading.Thread(target=watch, args=(threading.main_thread().ident,), daemon=True).start()
