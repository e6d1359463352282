"""Sums of counters whose members come and go: what they grow by is added, and nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vllm_sidecar.vllm.sums import MAX_MEMBERS, MAX_SUMS, Sum, Sums

A, B = (("pid", "1"),), (("pid", "2"),)


def follow(*polls: dict) -> list[float]:
    sums = Sums()
    return [sums.follow("key", {member: (value,) for member, value in poll.items()})[0] for poll in polls]


def test_what_is_there_from_the_first_poll_is_added_up() -> None:
    assert follow({A: 5.0, B: 7.0}, {A: 6.0, B: 9.0}) == [12.0, 15.0]


def test_a_member_that_leaves_takes_nothing_along() -> None:
    assert follow({A: 5.0, B: 7.0}, {B: 8.0}, {B: 9.0}) == [12.0, 13.0, 14.0]


def test_a_member_that_joins_brings_no_past_along() -> None:
    assert follow({A: 5.0}, {A: 6.0, B: 1000.0}, {A: 6.0, B: 1002.0}) == [5.0, 6.0, 8.0]


def test_a_member_that_returns_adds_what_it_has_grown_by() -> None:
    assert follow({A: 5.0, B: 7.0}, {A: 5.0}, {A: 5.0, B: 10.0}) == [12.0, 12.0, 15.0]


def test_a_member_that_returns_with_less_was_reset_in_its_absence() -> None:
    assert follow({A: 5.0, B: 7.0}, {A: 5.0}, {A: 5.0, B: 2.0}, {A: 5.0, B: 3.0}) == [12.0, 12.0, 12.0, 13.0]


def test_one_member_that_is_reset_adds_what_it_has_counted_since() -> None:
    assert follow({A: 5.0, B: 7.0}, {A: 6.0, B: 2.0}) == [12.0, 15.0]


def test_a_sum_resets_where_all_members_do() -> None:
    assert follow({A: 5.0, B: 7.0}, {A: 1.0, B: 2.0}, {A: 4.0, B: 2.0}) == [12.0, 3.0, 6.0]


def test_a_counter_that_had_one_member_goes_on_when_another_joins() -> None:
    sums = Sums()
    assert sums.follow("key", {(): (6.0,), B: (1000.0,)}, before=(5.0,)) == (6.0,)
    assert sums.follow("key", {(): (7.0,)}) == (7.0,)


def test_the_buckets_of_a_histogram_are_added_up_together() -> None:
    sums = Sums()
    assert sums.follow("key", {A: (1.0, 5.0), B: (2.0, 7.0)}) == (3.0, 12.0)
    assert sums.follow("key", {A: (1.0, 6.0)}) == (3.0, 13.0)
    assert sums.follow("key", {A: (1.0, 6.0, 6.0)}) == (1.0, 6.0, 6.0)


POLLS = st.lists(
    st.lists(st.tuples(st.booleans(), st.integers(0, 50)), min_size=3, max_size=3).filter(
        lambda members: any(present for present, _ in members)
    ),
    min_size=2,
    max_size=20,
)
"""At each poll of three members: whether it is in the body, and what it has grown by."""


@given(POLLS)
def test_members_that_come_and_go_never_make_a_sum_fall_nor_count_what_was_before(
    polls: list[list[tuple[bool, int]]],
) -> None:
    sum_, counts, seen, before = None, [1000.0, 50.0, 7.0], [None, None, None], 0.0
    for poll in polls:
        counts = [count + grown for count, (_, grown) in zip(counts, poll, strict=True)]
        now = {(("pid", str(i)),): (counts[i],) for i, (present, _) in enumerate(poll) if present}
        grown = sum(counts[i] - seen[i] for i, (here, _) in enumerate(poll) if here and seen[i] is not None)
        if sum_ is None:
            sum_ = Sum(now, 1)
            assert sum_.follow(now) == (sum(value for (value,) in now.values()),)
            before = sum_.follow(now)[0]
        else:
            (after,) = sum_.follow(now)
            assert after - before == grown
            before = after
        seen = [counts[i] if here else seen[i] for i, (here, _) in enumerate(poll)]


def test_what_is_remembered_is_bounded() -> None:
    sums = Sums()
    for n in range(MAX_SUMS + 10):
        sums.follow(n, {A: (1.0,)})
    assert 0 not in sums
    assert MAX_SUMS + 9 in sums
    one = Sum({}, 1)
    for n in range(MAX_MEMBERS + 50):
        one.follow({(("pid", str(n)),): (1.0,)})
    assert len(one._last) == MAX_MEMBERS
