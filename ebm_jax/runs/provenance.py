"""The facts that a reader needs to repeat a run: command, versions, commit and hardware."""

import os
import platform
import subprocess
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from ebm_jax import sharding


def facts(command: str) -> dict[str, str]:
    """Returns the facts by name.

    Args:
        command: the command line of the run.
    """
    versions = ", ".join(f"{name} {version(name)}" for name in ("jax", "flax", "optax", "numpy"))
    return {
        "command": command,
        "written": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "ebm_jax": f"{version('ebm_jax')}{commit()}",
        "versions": f"Python {platform.python_version()}, {versions}",
        "devices": sharding.device_names(),
        "host": f"{os.cpu_count()} CPU cores{processor()}, {platform.system()}",
    }


def commit() -> str:
    """Returns the git commit of the library in words, or "" if it is not in a checkout."""
    try:
        name, top = git("rev-parse", "--short=12", "HEAD", "--show-toplevel").split("\n")[:2]
        if Path(top, "ebm_jax") != Path(__file__).parents[1]:
            return ""  # a checkout of something else, such as a user's project with a .venv
        changed = git("status", "--porcelain", "--untracked-files=no").strip()
    except (OSError, subprocess.SubprocessError):
        return ""
    return f", commit {name}{' with changes' if changed else ''}"


def git(*words: str) -> str:
    """Returns what a git command in the library's folder prints."""
    command = ["git", "-C", str(Path(__file__).parent), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout


def processor() -> str:
    """Returns the name of the CPU in words, or "" if the system does not tell."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(errors="replace") if info.exists() else ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    name = names[0] if names else platform.processor()
    return f" ({name})" if name else ""
