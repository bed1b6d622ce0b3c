"""Whose run is it, and is that process alive: runs that nobody will end are ended."""

from __future__ import annotations

import os
import socket
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["end_stale_runs", "forget", "remember", "writer_tags"]

_HOST, _PROCESS = "ensemble_kit.host", "ensemble_kit.process"
#: Runs of this process that have not ended, as long as somebody holds them.
_OPEN: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()


def writer_tags() -> dict[str, str]:
    """Return the tags that name this host and process."""
    return {_HOST: _host(), _PROCESS: _process(os.getpid())}


def remember(run_id: str, run: Any) -> None:
    """Note that a run of this process is open while `run` lives."""
    _OPEN[run_id] = run


def forget(run_id: str | None) -> None:
    """Note that it is open no more."""
    _OPEN.pop(run_id or "", None)


def _host() -> str:
    """Return the machine, and the container on it: process numbers mean nothing elsewhere."""
    space = ""
    with suppress(OSError):
        space = f" {Path('/proc/self/ns/pid').readlink()}"
    return f"{socket.gethostname()}{space}"


def _process(pid: int) -> str:
    """Return a process's number and, where the system tells, when it started: numbers are used again."""
    with suppress(OSError, IndexError):
        # After the name, which is in brackets and may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return f"{pid} {'gone' if fields[0] in 'ZX' else fields[19]}"
    return str(pid)


def _is_alive(process: str) -> bool:
    pid = int(process.split(maxsplit=1)[0])
    if os.name != "posix":  # where signal 0 is not a question
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _process(pid) == process


def end_stale_runs(client: Any, experiment_id: str) -> None:
    """End runs of this host that nobody will end, as KILLED."""
    here = f"attributes.status = 'RUNNING' and tags.`{_HOST}` = '{_host()}'"
    for run in client.search_runs([experiment_id], here):
        process = run.data.tags[_PROCESS]
        own = process == _process(os.getpid())
        if run.info.run_id not in _OPEN if own else not _is_alive(process):
            client.set_terminated(run.info.run_id, "KILLED")
