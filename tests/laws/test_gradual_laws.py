import pytest
from laws.gradual_laws import check_count, check_floor, check_memory, check_start, check_worth

from taut.budget.gradual import Remover


@pytest.mark.parametrize("count", [300, 40])
def test_the_number_falls_geometrically_and_what_is_gone_stays_gone(count):
    check_count(Remover, count)


@pytest.mark.parametrize("check", [check_worth, check_memory, check_floor, check_start])
def test_what_goes(check):
    check(Remover)
