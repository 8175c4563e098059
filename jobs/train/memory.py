"""How much memory a rank has needed: what decides whether a job fits on a host."""

from pathlib import Path

import psutil


def peak_rss_bytes() -> int:
    """The highest resident size of this process so far, as the kernel counts it; the present one where it does not say.

    Not getrusage: its peak survives exec, so it may be that of the process this one was forked from.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    peaks = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]
    return peaks[0] if peaks else psutil.Process().memory_info().rss
