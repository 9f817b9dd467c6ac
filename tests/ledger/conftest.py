import pytest

from tests.ledger.desk import Desk


@pytest.fixture
def desk(tmp_path):
    return Desk.at(tmp_path)
