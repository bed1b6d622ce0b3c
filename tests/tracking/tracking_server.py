"""A real `mlflow server` with a database and a folder for files, that dies with whoever started it."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress

#: Starts what it is given as a group of its own, and kills it when nobody holds the other end of its input.
_KEEPER = """
import os, signal, subprocess, sys
server = subprocess.Popen(sys.argv[1:], start_new_session=True, stdin=subprocess.DEVNULL)
print(server.pid, flush=True)
sys.stdin.read()
os.killpg(server.pid, signal.SIGKILL)
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class TrackingServer:
    """Runs at `uri` from `start` to `kill` or the end of the `with` block."""

    def __init__(self, folder):
        self.folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._keeper = None

    def start(self):
        where = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        stores = ["--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        stores += ["--artifacts-destination", f"{self.folder}/files"]
        command = [sys.executable, "-m", "mlflow", "server", *where, *stores]
        log = (self.folder / "server.log").open("ab")
        self._keeper = subprocess.Popen(
            [sys.executable, "-c", _KEEPER, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
        )
        log.close()
        self.group = int(self._keeper.stdout.readline())
        until = time.monotonic() + 90
        while True:
            with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                return self
            if time.monotonic() > until:
                self.kill()
                raise TimeoutError((self.folder / "server.log").read_text()[-2000:])
            time.sleep(0.1)

    def kill(self):
        """As a power cut would."""
        if self._keeper is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.group, signal.SIGKILL)
            self._keeper.communicate()
            self._keeper = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *how):
        self.kill()
