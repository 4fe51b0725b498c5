"""Tasks divide the missing groups of a pass: each group is in exactly one task, and the last tasks are small."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from magnet_cli.segmentation.cluster.group_spans import LEAST_DOUBTFUL, SECONDS, UNMEASURED, GroupSpan, GroupSpans


def taken(spans: GroupSpans, workers: int, seconds: float) -> list[GroupSpan]:
    """Return all tasks of a pass in which each group takes `seconds`."""
    found = []
    while (span := spans.following(workers)) is not None:
        found.append(span)
        spans.note(span.groups, seconds * span.groups)
    return found


@given(
    missing=st.sets(st.integers(0, 300)),
    workers=st.integers(1, 40),
    seconds=st.floats(0, 100),
    groups=st.none() | st.integers(1, 20),
)
def test_every_missing_group_is_in_exactly_one_task(
    missing: set[int], workers: int, seconds: float, groups: int | None
) -> None:
    spans = taken(GroupSpans(2, sorted(missing), groups=groups), workers, seconds)
    assert [group for span in spans for group in range(span.first, span.last + 1)] == sorted(missing)
    assert {span.step for span in spans} <= {2}
    assert groups is None or all(span.groups <= groups for span in spans)


def test_tasks_grow_to_the_wanted_time_and_shrink_at_the_end() -> None:
    sizes = [span.groups for span in taken(GroupSpans(0, range(4000)), 4, SECONDS / 50)]
    assert sizes[0] == 1
    assert max(sizes) == 50
    assert sizes[-4:] == [1, 1, 1, 1]
    # What is left when the last tasks are given out is less than a worker does in the wanted time.
    assert sum(sizes[-8:]) <= 50


def test_a_task_has_an_expected_time_before_any_of_its_pass_has_ended() -> None:
    span = GroupSpan(step=1, first=3, last=6)
    assert GroupSpans(1, [3, 4, 5, 6]).seconds(span) == UNMEASURED
    for before, least in ((0.1, LEAST_DOUBTFUL), (60.0, 4 * 60.0)):
        spans = GroupSpans(1, [3, 4, 5, 6], before=before)
        assert least <= spans.seconds(span) <= 4 * least
        spans.note(2, 10.0)
        assert spans.seconds(span) == 20.0
