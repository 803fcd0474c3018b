"""What makes a train step fast on a CPU, apart from the mathematics."""

import ctypes
import functools
import os
import platform

import tensorflow as tf


def keep_freed_memory() -> None:
    """Asks the C library to keep freed buffers for the next step.

    By default glibc hands large buffers back to the kernel after each step
    and pays for every page anew in the next. Compiling with XLA sets its
    threshold back, so this has to be asked for again afterwards, which takes
    about a microsecond.

    It holds for the whole process. It does nothing elsewhere than on Linux
    with glibc, where a GPU does the work, or where a `MALLOC_…` environment
    variable says what the user wants.
    """
    libc = _glibc()
    if libc is not None:
        m_trim_threshold, m_mmap_threshold = -1, -3  # from glibc's malloc.h
        libc.mallopt(m_mmap_threshold, 32 * 2**20)  # the most glibc takes
        libc.mallopt(m_trim_threshold, 2**30)


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    """The C library, if it is glibc and a CPU works as the user left it."""
    by_user = any(name.startswith("MALLOC_") for name in os.environ)
    if by_user or platform.libc_ver()[0] != "glibc":
        return None
    if tf.config.list_logical_devices("GPU"):
        return None
    return ctypes.CDLL(None)
