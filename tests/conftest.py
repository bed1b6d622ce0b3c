"""Fixtures that several rooms share."""

import itertools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real bars beside the repository; a test that asks for it is skipped without."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder of real bars is not here")
    return folder


def _as_owner(*command):
    owner = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    return subprocess.run([*owner, *command], check=True, capture_output=True, text=True)


@pytest.fixture(scope="session")
def postgres_server():
    """The socket's folder and the binaries of a PostgreSQL server, Debian's, of its own."""
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
        _as_owner(str(binaries / "initdb"), "-D", str(data), "-A", "trust", "-U", "tester", "--no-sync")
        options = f"-c listen_addresses='' -k {folder} -c fsync=off"
        control = (str(binaries / "pg_ctl"), "-D", str(data), "-w")
        _as_owner(*control, "-o", options, "-l", str(Path(folder, "log")), "start")
        try:
            os.chmod(folder, 0o755)  # noqa: PTH101
            yield folder, binaries
        finally:
            _as_owner(*control, "-m", "immediate", "stop")


_NUMBERS = itertools.count()


@pytest.fixture
def postgres(postgres_server):
    """The address of an empty PostgreSQL database."""
    folder, binaries = postgres_server
    name = f"test{next(_NUMBERS)}"
    subprocess.run([str(binaries / "createdb"), "-h", folder, "-U", "tester", name], check=True, capture_output=True)
    return f"postgresql+psycopg://tester@/{name}?host={folder}"
