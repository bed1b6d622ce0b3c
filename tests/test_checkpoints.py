"""A checkpoint is the old one or the new one; whatever else lies there is noticed."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from ensemble_kit.checkpoints import Checkpoint, checkpoint, checkpoints_in

STATE = {"epoch": 3, "weights": np.arange(500, dtype=np.float32), "tensors": b"\x00\x01", "losses": [{"loss": 0.5}]}


@pytest.fixture
def kept(tmp_path):
    one = Checkpoint(tmp_path / "made" / "when needed", "key")
    one.save(STATE)
    return one


def test_what_was_saved_comes_back(kept):
    kept.save(STATE | {"epoch": 4})
    state = kept.load()
    assert_array_equal(state.pop("weights"), STATE["weights"])
    assert state == {"epoch": 4, "tensors": b"\x00\x01", "losses": [{"loss": 0.5}]}
    assert [file.name for file in kept.path.parent.iterdir()] == ["key.checkpoint"]
    kept.discard()
    kept.discard()
    assert kept.load() is None
    assert list(kept.path.parent.iterdir()) == []


def test_a_folder_is_in_force_inside_and_in_this_thread_only(tmp_path):
    def asked():
        raise AssertionError

    assert checkpoint(asked) is None
    with checkpoints_in(tmp_path):
        assert checkpoint("a").path == tmp_path / "a.checkpoint"
        assert checkpoint(lambda: "b").path == tmp_path / "b.checkpoint"
        with checkpoints_in(str(tmp_path / "inner")):
            assert checkpoint("a").path.parent.name == "inner"
        with checkpoints_in(None):
            assert checkpoint(asked) is None
        assert checkpoint("a").path.parent == tmp_path
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(checkpoint, "a").result() is None
    with pytest.raises(ZeroDivisionError), checkpoints_in(tmp_path):
        raise ZeroDivisionError
    assert checkpoint("a") is None


def useless(kept, why):
    with pytest.warns(UserWarning, match=rf"^The checkpoint .*{kept.path.name} {why}; its work is done again\.$"):
        assert kept.load() is None


def test_no_cut_passes_for_a_state(kept):
    content = kept.path.read_bytes()
    for length in [*range(120), len(content) // 2, len(content) - 1]:
        kept.path.write_bytes(content[:length])
        useless(kept, "is (torn, damaged or another fit's|of another format or version)")
    kept.path.write_bytes(content + b"\x00")
    useless(kept, "is torn, damaged or another fit's")


def test_no_flipped_bit_passes_for_a_state(kept, monkeypatch):
    content = kept.path.read_bytes()
    monkeypatch.setattr("ensemble_kit.checkpoints.pickle.loads", lambda body: pytest.fail("unpickled"))
    for bit in [*range(8 * 90), *range(720, 8 * len(content), 97)]:
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        kept.path.write_bytes(flipped)
        useless(kept, "is (torn, damaged or another fit's|of another format or version)")


def test_another_fits_file_and_another_version_are_noticed(kept):
    kept.path.rename(kept.path.with_name("other.checkpoint"))
    useless(Checkpoint(kept.path.parent, "other"), "is torn, damaged or another fit's")
    kept.save(STATE)
    kept.path.write_bytes(kept.path.read_bytes().replace(b"checkpoint 1\n", b"checkpoint 2\n", 1))
    useless(kept, "is of another format or version")
    kept.path.unlink()
    kept.path.mkdir()
    useless(kept, r"cannot be read \(.*Is a directory.*\)")


def test_what_cannot_be_written_costs_the_checkpoint_only(kept, monkeypatch):
    def full(self, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.warns(UserWarning, match=r"^A checkpoint cannot be written to .* \(.*No space left on device\);"):
            kept.save(STATE | {"epoch": 4})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            kept.save(STATE | {"epoch": 5})  # said once
    assert [file.name for file in kept.path.parent.iterdir()] == ["key.checkpoint"]
    assert kept.load()["epoch"] == 3
    kept.save(STATE | {"epoch": 6})
    assert kept.load()["epoch"] == 6
    blocked = Checkpoint(kept.path / "a file is no folder", "key")
    with pytest.warns(UserWarning, match="cannot be written"):
        blocked.save(STATE)


def test_an_interrupt_while_writing_leaves_the_old_state(kept, monkeypatch):
    def interrupt(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        kept.save(STATE | {"epoch": 4})
    assert [file.name for file in kept.path.parent.iterdir()] == ["key.checkpoint"]
    assert kept.load()["epoch"] == 3


def test_what_killed_processes_left_is_swept(kept):
    old, young, others = (kept.path.with_name(name) for name in ("key.1.tmp", "key.2.tmp", "another.3.tmp"))
    for file in (old, young, others):
        file.write_bytes(b"half")
        os.utime(file, (1e9, 1e9) if file is not young else None)
    kept.save(STATE)
    assert not old.exists()
    assert young.exists()  # a living process may be writing it
    assert others.exists()
    kept.discard()
    assert not young.exists()
    assert others.exists()


LIMITED = """
import resource, signal, sys, warnings
from pathlib import Path
from ensemble_kit.checkpoints import Checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
kept = Checkpoint(Path(sys.argv[1]), "key")
kept.save({"epoch": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    for _ in range(3):
        kept.save({"epoch": 2, "weights": bytes(10_000)})
print(len(said), kept.load(), sorted(file.name for file in kept.path.parent.iterdir()))
"""


def test_a_file_that_may_not_grow_leaves_no_half(tmp_path):
    out = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert out.stdout.strip() == "1 {'epoch': 1} ['key.checkpoint']"


def test_a_full_disk(tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        kept = Checkpoint(mount, "key")
        kept.save({"epoch": 1, "weights": bytes(20_000)})
        with pytest.warns(UserWarning, match="No space left on device"):
            kept.save({"epoch": 2, "weights": bytes(200_000)})
        assert [file.name for file in mount.iterdir()] == ["key.checkpoint"]
        assert kept.load()["epoch"] == 1
        kept.save({"epoch": 3, "weights": bytes(20_000)})
        assert kept.load()["epoch"] == 3
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_writers_and_readers_of_one_key_do_not_meet(tmp_path):
    wrong = []

    def work(number):
        kept = Checkpoint(tmp_path, "key")
        for _ in range(60):
            kept.save({"number": number, "again": [number] * 2000})
            state = kept.load()
            if state["again"] != [state["number"]] * 2000:
                wrong.append(state)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert [file.name for file in tmp_path.iterdir()] == ["key.checkpoint"]


KILLED = """
import sys
from pathlib import Path
from ensemble_kit.checkpoints import Checkpoint
kept = Checkpoint(Path(sys.argv[1]), "key")
number = 0
while True:
    number += 1
    kept.save({"number": number, "again": [number] * 100_000})
    if number == 1:
        print("begun", flush=True)
"""


@pytest.mark.slow
def test_a_process_killed_while_writing_leaves_a_whole_state(tmp_path):
    rng = np.random.default_rng(0)
    for _ in range(10):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)], stdout=subprocess.PIPE
        )
        process.stdout.readline()
        threading.Event().wait(rng.uniform(0, 0.1))
        process.kill()
        process.communicate()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            state = Checkpoint(tmp_path, "key").load()
        assert state["again"] == [state["number"]] * 100_000
