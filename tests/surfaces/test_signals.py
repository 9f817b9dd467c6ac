"""Interrupts, terminals and the prompt before real money, with a real process."""

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.surfaces.holding import holding_service

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-P", "-m", "runner", "run", "j.yaml"]


@pytest.fixture
def service():
    with holding_service() as held:
        yield held


@pytest.fixture
def environment(home, service, manifest):
    manifest("variants: 10\nlimits: {concurrency: 4}")
    return {**os.environ, "GEMINI_API_KEY": "k", "GOOGLE_GEMINI_BASE_URL": service.base_url, "COLUMNS": "200"}


@contextmanager
def start(environment, *arguments, **pipes):
    streams: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        **pipes,
    }
    with subprocess.Popen([*COMMAND, *arguments], env=environment, text=True, **streams) as run:
        try:
            yield run
        finally:
            run.kill()


def status(environment):
    command = [sys.executable, "-P", "-m", "runner", "status", "j", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return json.loads(done.stdout)


def log_says(home, words):
    """Wait until the run's log has the words."""
    log = home / "bulkrender.db.log"
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if log.exists() and words in log.read_text():
            return True
        os.sched_yield()
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_interrupt_lets_what_is_in_flight_land(environment, service, home, number):
    with start(environment, "--json") as run:
        service.wait_for(4)
        run.send_signal(number)
        assert log_says(home, "waiting for what is in flight")
        service.release()
        out, _ = run.communicate(timeout=20)
    answer = json.loads(out)
    assert (run.returncode, answer["exit_code"], answer["halted"]) == (130, 130, "interrupted")
    assert answer["tasks"]["succeeded"] == service.arrived == 4
    assert answer["spend"]["reserved_usd"] == answer["spend"]["unknown_usd"] == "0.00"


def test_the_second_interrupt_leaves_at_once_and_running_again_loses_nothing(environment, service, home):
    with start(environment) as run:
        service.wait_for(4)
        run.send_signal(signal.SIGINT)
        assert log_says(home, "waiting for what is in flight")
        asked = time.monotonic()
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=20)
    assert run.returncode == 130
    assert time.monotonic() - asked < 5
    service.release()
    with start(environment, "--json") as run:
        out, err = run.communicate(timeout=30)
    answer = json.loads(out)
    assert answer["tasks"]["succeeded"] == 20
    assert "4 requests held as unknown" in err
    worst = 4 * (747 * 60_000 + 1_500 * 1_500 + 5 * 250)
    assert answer["spend"]["unknown_usd"] == f"{worst / 10**9:.9f}".rstrip("0")


def test_a_second_hangup_of_a_vanished_terminal_is_not_a_second_wish(environment, service, home):
    with start(environment, "--json") as run:
        service.wait_for(4)
        run.send_signal(signal.SIGHUP)
        assert log_says(home, "waiting for what is in flight")
        run.send_signal(signal.SIGHUP)
        service.release()
        out, _ = run.communicate(timeout=20)
    assert json.loads(out)["tasks"]["succeeded"] == 4


def test_sigterm_waits_no_longer_than_its_grace(environment, service, home):
    with start(environment, "--json", "--grace", "0.2") as run:
        service.wait_for(4)
        run.send_signal(signal.SIGTERM)
        out, _ = run.communicate(timeout=20)
    answer = json.loads(out)
    assert (run.returncode, answer["halted"]) == (130, "interrupted")
    assert answer["tasks"]["queued"] == 20
    assert answer["spend"]["unknown_usd"] != "0.00"


def test_a_killed_run_resumes(environment, service):
    with start(environment) as run:
        service.wait_for(4)
        run.kill()
        run.communicate()
    before = status(environment)
    assert before["tasks"]["running"] == 4
    assert before["exit_code"] == 130
    service.release()
    with start(environment, "--json") as run:
        answer = json.loads(run.communicate(timeout=30)[0])
    assert answer["tasks"]["succeeded"] == 20
    assert service.arrived == 24


class Terminal:
    """The master end of a terminal; remembers what was read beyond the words last waited for."""

    def __init__(self, master):
        self.master, self.seen = master, ""

    def read_until(self, words):
        while words not in self.seen:
            try:
                self.seen += os.read(self.master, 4_096).decode(errors="replace")
            except OSError:
                raise AssertionError(f"the terminal closed before {words!r}; it showed {self.seen!r}") from None
        shown, _, self.seen = self.seen.partition(words)
        return shown

    def write(self, text):
        os.write(self.master, text.encode())

    def vanish(self):
        with suppress(OSError):
            os.close(self.master)


@contextmanager
def on_a_terminal(environment, *arguments, controlling=True):
    """Start with a terminal of its own; one that is controlling hangs up on the process when it vanishes."""
    master, slave = pty.openpty()
    streams: dict[str, Any] = {"stdin": slave, "stdout": slave, "stderr": slave, "start_new_session": True}
    if controlling:
        streams["preexec_fn"] = lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    with start(environment, *arguments, **streams) as run:
        os.close(slave)
        terminal = Terminal(master)
        yield run, terminal
    terminal.vanish()


def test_on_a_terminal_real_money_is_asked_for(environment, service):
    with on_a_terminal(environment) as (run, terminal):
        shown = terminal.read_until("[y/N]")
        terminal.write("n\n")
        terminal.read_until("not confirmed")
        run.wait(20)
    assert "20 tasks to buy" in shown
    assert run.returncode == 2
    assert service.arrived == 0


@pytest.mark.parametrize(("key", "code"), [("\x03", 130), ("\x04", 2)])
def test_ctrl_c_and_ctrl_d_at_the_question_buy_nothing_and_tell_nobody(
    environment, service, home, manifest, key, code
):
    manifest("variants: 10\nnotify: {command: [touch, told]}")
    with on_a_terminal(environment) as (run, terminal):
        terminal.read_until("[y/N]")
        # a signal that comes between the question and the read is only seen at the next one
        for _ in range(20):
            terminal.write(key)
            with suppress(subprocess.TimeoutExpired):
                run.wait(1)
                break
        assert run.returncode == code
    assert (service.arrived, (home / "told").exists()) == (0, False)


@pytest.mark.parametrize("arguments", [[], ["--yes"]])
def test_a_yes_buys_and_progress_shows_what_is_going_on(environment, service, arguments):
    with on_a_terminal(environment, *arguments) as (run, terminal):
        if not arguments:
            terminal.read_until("[y/N]")
            terminal.write("y\n")
        service.wait_for(4)
        terminal.read_until("4 in flight")
        service.release()
        terminal.read_until("20 of 20 pictures")
        terminal.read_until("renders")
        run.wait(20)
    assert run.returncode == 0


def test_a_terminal_that_hangs_up_interrupts_and_the_log_goes_on(environment, service, home):
    with on_a_terminal(environment, "--yes") as (run, terminal):
        service.wait_for(4)
        terminal.read_until("4 in flight")
        terminal.vanish()
        assert log_says(home, "SIGHUP")
        service.release()
        assert run.wait(20) == 130
    assert "made" in (home / "bulkrender.db.log").read_text()
    assert status(environment)["tasks"]["succeeded"] == 4


def test_a_terminal_that_vanished_without_a_word_does_not_stop_the_run(environment, service, home):
    with on_a_terminal(environment, "--yes", controlling=False) as (run, terminal):
        service.wait_for(4)
        terminal.read_until("4 in flight")
        terminal.vanish()
        service.release()
        assert run.wait(30) == 0
    assert (home / "bulkrender.db.log").read_text().count(" made") == 20
    assert status(environment)["tasks"]["succeeded"] == 20
