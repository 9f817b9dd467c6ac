import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from runner.core.errors import JobLockedError, LedgerError
from runner.ledger import Ledger
from runner.ledger.locks import FileLock, job_lock

HOLDER = """
import sys
from pathlib import Path
from runner.ledger.locks import job_lock

with job_lock(Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_runner(path, job):
    command = [sys.executable, "-c", HOLDER, str(path), job]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_second_runner_is_told_who_runs_the_job(tmp_path):
    with (
        another_runner(tmp_path / "x.db", "banana") as process,
        pytest.raises(
            JobLockedError, match=rf"'banana' is already .* by process {process.pid} on .*, since 20.*Z$"
        ),
        job_lock(tmp_path / "x.db", "banana"),
    ):
        pass


def test_the_lock_dies_with_its_holder_and_its_file_stays(tmp_path):
    with another_runner(tmp_path / "x.db", "banana") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with job_lock(tmp_path / "x.db", "banana") as lock:
            assert f"process {os.getpid()} on " in lock.holder()
    assert lock.path.exists()


def test_each_job_has_a_lock_of_its_own_however_alike_the_names(tmp_path):
    names = ["Banana!", "banana", "banana?", "バナナ", "x" * 500, "../evil"]
    with another_runner(tmp_path / "x.db", "Banana!"):
        for name in names[1:]:
            with job_lock(tmp_path / "x.db", name) as lock:
                assert lock.path.parent == tmp_path


def test_two_names_of_one_file_are_one_ledger(tmp_path):
    (tmp_path / "x.db").touch()
    (tmp_path / "link.db").symlink_to(tmp_path / "x.db")
    with (
        job_lock(tmp_path / "x.db", "banana"),
        pytest.raises(JobLockedError),
        job_lock(tmp_path / "link.db", "banana"),
    ):
        pass


def test_spawned_children_do_not_keep_the_lock(tmp_path):
    with job_lock(tmp_path / "x.db", "banana"):
        command = [sys.executable, "-c", "print('up', flush=True); input()"]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False)
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        with job_lock(tmp_path / "x.db", "banana"):
            assert child.poll() is None
        child.kill()


def test_the_lock_is_free_again_when_its_context_ends(desk):
    with Ledger.open(desk.url, "live", now_utc=0.0) as ledger:
        for _ in range(2):
            with ledger.lock_job("banana"), pytest.raises(JobLockedError), ledger.lock_job("banana"):
                pass


def test_an_unsigned_lock_still_gives_a_line(tmp_path):
    with FileLock(tmp_path / "lock") as lock:
        assert lock.holder() == "another process"


def test_a_folder_that_takes_no_file_is_a_clear_line(tmp_path):
    with pytest.raises(LedgerError, match="cannot create the lock file: No such file"):
        FileLock(tmp_path / "missing" / "lock")
