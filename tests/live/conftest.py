"""A PostgreSQL server for the tests of the journal."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest


def _as_owner(*command):
    owner = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    return subprocess.run([*owner, *command], check=True, capture_output=True, text=True)


@pytest.fixture(scope="session")
def postgres():
    """The address of a PostgreSQL server from Debian's binaries, on a socket in a folder of its own."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found or (os.geteuid() == 0 and shutil.which("runuser") is None):
        pytest.skip("PostgreSQL is not installed")
    pytest.importorskip("psycopg")
    binaries = found[-1].parent
    # A socket's path has 107 characters at most, and the server's user must reach it: pytest's folders are private.
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        data = Path(folder, "data")
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
        _as_owner(str(binaries / "initdb"), "-D", str(data), "-A", "trust", "-U", "trader", "--no-sync")
        options = f"-c listen_addresses='' -k {folder} -c fsync=off"
        control = (str(binaries / "pg_ctl"), "-D", str(data), "-w")
        _as_owner(*control, "-o", options, "-l", str(Path(folder, "log")), "start")
        try:
            os.chmod(folder, 0o755)  # noqa: PTH101
            yield f"postgresql+psycopg://trader@/postgres?host={folder}"
        finally:
            _as_owner(*control, "-m", "immediate", "stop")
