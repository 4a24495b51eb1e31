"""Ctrl-C, which reaches a whole group of processes at once, while some of them are being started."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker


@contextmanager
def unheard() -> Iterator[None]:
    """A Ctrl-C in here is heard at the end; processes that are started in here never hear one.

    It reaches the whole group, and a new process would die of it, loudly, before its first line could ignore it.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # which unblocks SIGINT when it starts
    came: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))  # of what other threads receive
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which children inherit, unlike the handler
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(signal.SIGINT, handler)
    if came:
        signal.raise_signal(signal.SIGINT)
