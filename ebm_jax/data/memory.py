"""Free memory, which is compared with the size of a data set before it is read."""

import os
from pathlib import Path

from ebm_jax.data.images import wrong

MACHINE = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def free_memory() -> int:
    """Returns the bytes of free memory, of the machine or of its container if that has less.

    If the system does not report free memory, half of all memory is assumed to be free. Page
    caches charged to a container count as used, although the system could drop them.
    """
    if MACHINE.exists():
        words = MACHINE.read_text().partition("MemAvailable:")[2].split(maxsplit=1)
        free = int(words[0]) * 1024
    else:
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    if (CGROUP / "memory.max").exists():
        limit, used = ((CGROUP / f"memory.{name}").read_text() for name in ("max", "current"))
        free = free if limit.strip() == "max" else min(free, int(limit) - int(used))
    return max(free, 0)


MEND = "take fewer images, or prepare them as array_record, which stays on disk"


def check_fits(where: object, num_bytes: int, mend: str = MEND) -> None:
    """Raises the `DataError` if reading would take more memory than is free."""
    free = free_memory()
    if num_bytes > free:
        found = f"{where} takes {num_bytes / 1e6:,.1f} MB of memory when it is read"
        raise wrong(found, f"at most the {free / 1e6:,.1f} MB that are free", mend)
