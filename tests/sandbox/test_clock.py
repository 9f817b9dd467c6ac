"""The sandbox's own time line, and its outages on it."""

import json
import socket
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.sandbox import Outage, parse_outage
from runner.sandbox.clock import Clock
from runner.sandbox.outage import outage_at
from tests.sandbox.wire import MODEL, asking, serving

WALL = 1.8e9


def test_it_starts_with_the_wall_and_runs_faster(tmp_path):
    wall = [WALL]
    clock = Clock(tmp_path, 60, lambda: wall[0])
    assert (clock.started, clock.read()) == (WALL, (WALL, WALL))
    wall[0] += 1.5
    assert clock.read() == (WALL + 1.5, WALL + 90)


def test_restarts_go_on_on_the_same_line_and_another_speed_starts_where_the_last_one_was(tmp_path):
    """A minute passes at each speed, while the sandbox is down as well."""
    wall, shown = [WALL], []
    for speed, pause in ((10, 60), (10, 60), (1, 60), (0.5, 60), (0.5, 0)):
        clock = Clock(tmp_path, speed, lambda: wall[0])
        shown.append(clock.read().clock - clock.started)
        wall[0] += pause
    assert shown == [0, 600, 1200, 1260, 1290]
    assert clock.started == WALL


@given(steps=st.lists(st.floats(-100, 100), max_size=20), speed=st.sampled_from([0.5, 1, 60]))
def test_it_never_runs_back(steps, speed, tmp_path_factory):
    wall = [WALL]
    clock = Clock(tmp_path_factory.mktemp("clock"), speed, lambda: wall[0])
    shown = []
    for step in steps:
        wall[0] += step
        shown.append(clock.read().clock)
    assert shown == sorted(shown)
    furthest = max(shown, default=WALL)
    wall[0] = WALL + 1e5
    assert clock.read().clock == WALL + 1e5 * speed > furthest


def test_a_broken_origin_is_no_reason_to_start_again(tmp_path):
    (tmp_path / "clock.json").write_text("{}")
    with pytest.raises(ValueError, match=r"clock\.json is no origin"):
        Clock(tmp_path, 1, lambda: WALL)


def test_windows_and_days_follow_it(tmp_path):
    """At speed 60 a minute lasts a second of the wall, over restarts; rows tell both times."""
    wall, statuses = [WALL], []
    for wall[0] in (WALL, WALL + 0.5, WALL + 0.75, WALL + 1.25):
        with serving(tmp_path, quotas={"rpm": 2}, speed=60, now=lambda: wall[0]) as sandbox:
            statuses += [sandbox.post(asking()).status]
    assert statuses == [200, 200, 429, 200]
    times = [(0, 0), (0.5, 30), (0.75, 45), (1.25, 75)]
    assert [(row["at"] - WALL, row["clock"] - WALL) for row in sandbox.requests()] == times
    assert [row["clock"] - WALL for row in sandbox.bill()] == [0, 30, 75]


def test_every_answer_says_what_time_it_is_there(tmp_path):
    wall = [WALL]
    with serving(tmp_path, speed=60, now=lambda: wall[0]) as sandbox:
        wall[0] += 60
        answers = [sandbox.send("GET", path) for path in ("/v1beta/models", "/v1beta/batches", "/nowhere")]
    assert {parsedate_to_datetime(one.headers["date"]).timestamp() for one in answers} == {WALL + 3_600}


def test_the_wall_stepping_back_between_two_runs_frees_no_window(tmp_path):
    wall, statuses = [WALL], []
    for wall[0] in (WALL, WALL + 30, WALL - 3600, WALL + 59, WALL + 60):
        with serving(tmp_path, quotas={"rpm": 1}, now=lambda: wall[0]) as sandbox:
            statuses.append(sandbox.post(asking()).status)
    assert statuses == [200, 429, 429, 429, 200]
    assert sorted(row["clock"] for row in sandbox.requests()) == [row["clock"] for row in sandbox.requests()]


def test_a_folder_of_the_first_release_is_gone_on_with(tmp_path):
    """Its rows know requests and the wall's time, and there is no origin."""
    row = {"n": 1, "at": WALL - 30, "request": "x", "model": MODEL, "admitted": True, "counted": True}
    (tmp_path / "requests.jsonl").write_text(json.dumps(row) + "\n")
    with serving(tmp_path, quotas={"rpm": 1, "spend": 10**12}, now=lambda: WALL) as sandbox:
        rejection = sandbox.post(asking())
    assert "Please retry in 30s." in rejection.json["error"]["message"]


# --- outages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "outage"),
    [
        ("3600+1200", Outage(3600, 1200)),
        ("0+0.5:timeout", Outage(0, 0.5, "timeout")),
        ("1e3+2:refuse", Outage(1000, 2, "refuse")),
    ],
)
def test_outages_as_they_are_typed(text, outage):
    assert parse_outage(text) == outage


@pytest.mark.parametrize(
    "text", ["", "3600", "a+1", "1+b", "-1+5", "5+0", "nan+1", "1+inf", "1+2:503:1", "1+2:418"]
)
def test_wrong_outages_are_refused(text):
    with pytest.raises(ValueError, match=r"expected|outage"):
        parse_outage(text)


def test_an_outage_is_half_open_and_the_first_named_wins():
    outages = [Outage(10, 10, "500"), Outage(15, 10), Outage(40, 1)]
    kinds = [outage_at(outages, age) for age in (9.9, 10, 15, 20, 24.9, 25, 40, 41)]
    assert kinds == [None, "500", "500", "503", "503", None, "503", None]


@pytest.mark.parametrize(
    ("kind", "status"), [("503", "UNAVAILABLE"), ("500", "INTERNAL"), ("504", "DEADLINE_EXCEEDED")]
)
def test_every_request_meets_the_outage_and_nothing_is_billed(kind, status, tmp_path):
    """Faults, quotas and the key's are not asked; the models can be listed; the clock is the sandbox's own."""
    wall = [WALL]
    options: dict[str, Any] = {
        "outages": (Outage(60, 60, kind),),
        "speed": 60,
        "quotas": {"rpm": 1, "ipm": 0},
        "faults": "http_408=1",
    }
    statuses = []
    with serving(tmp_path, now=lambda: wall[0], **options) as sandbox:
        for wall[0] in (WALL + 1, WALL + 1.5, WALL + 1.98):
            answer = sandbox.post(asking(), key=None)
            statuses.append(answer.status)
            assert answer.json["error"]["status"] == status
        assert sandbox.send("GET", "/v1beta/models").status == 200
    wall[0] = WALL + 2
    with serving(tmp_path, now=lambda: wall[0], **{**options, "faults": "http_500=1"}) as sandbox:
        assert sandbox.post(asking()).status == 500
    assert statuses == [int(kind)] * 3
    rows = sandbox.requests()
    assert [row["status"] for row in rows] == [f"outage_{kind}"] * 3 + ["http_500"]
    assert [(row["admitted"], row["counted"], row["refused_by"]) for row in rows[:3]] == [(False, False, None)] * 3
    assert {row["prompt"] for row in rows} == {"a lighthouse at dusk"}
    assert not sandbox.bill()


def test_an_outage_that_refuses_closes_before_it_reads(tmp_path):
    """The head of a request is enough: its body is never waited for."""
    with serving(tmp_path, outages=(Outage(0, 1e9, "refuse"),)) as sandbox, sandbox.connect() as connection:
        path = f"/v1beta/models/{MODEL}:generateContent"
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode())
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    assert [(row["status"], row["request"]) for row in sandbox.requests()] == [("outage_refuse", None)]


def test_an_outage_that_times_out_says_nothing(tmp_path):
    with serving(tmp_path, outages=(Outage(0, 1e9, "timeout"),)) as sandbox, sandbox.connect() as connection:
        body = json.dumps(asking()).encode()
        path = f"/v1beta/models/{MODEL}:generateContent?key=sandbox"
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        )
        connection.settimeout(0.3)
        with pytest.raises(socket.timeout):
            connection.recv(1)
    assert [row["status"] for row in sandbox.requests()] == ["outage_timeout"]
    assert not sandbox.bill()
