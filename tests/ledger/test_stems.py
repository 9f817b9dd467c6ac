"""Where pictures of open attempts go."""

from runner.ledger.stems import stems_in_flight
from tests.ledger.desk import specs


def test_stems_in_flight_are_those_of_attempts_that_have_not_ended(desk):
    desk.enqueue(specs(3))
    one, two = desk.claimed(), desk.claimed()
    with desk.read() as connection:
        assert stems_in_flight(connection, "job") == {one.token: one.stem, two.token: two.stem}
    desk.settle(one)
    with desk.read() as connection:
        assert stems_in_flight(connection, "job") == {two.token: two.stem}
        assert stems_in_flight(connection, "another") == {}
