"""One at a time, in the order of their coming."""

import pytest

from fdiv_jax.app.turns import Turns


def test_the_first_is_served_and_the_others_wait_in_order():
    turns = Turns(3)
    first, second, third = (turns.enter() for _ in range(3))
    assert [each.ahead for each in (first, second, third)] == [0, 1, 2]
    with pytest.raises(RuntimeError, match="3 runs are waiting already"):
        turns.enter()
    second.leave()  # tired of waiting
    assert third.ahead == 1
    first.leave()
    assert third.ahead == 0
    first.leave()
    assert third.ahead == 0
    assert turns.enter().ahead == 1
