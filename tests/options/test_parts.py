"""Every item belongs to exactly one part of a run, and job arrays are read only where `auto` asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magnet_cli.errors import UsageError
from magnet_cli.options.parts import JobPart, PartOptions

if TYPE_CHECKING:
    from collections.abc import Mapping


@given(count=st.integers(1, 300), total=st.integers(0, 1000))
def test_parts_are_disjoint_and_complete(count: int, total: int) -> None:
    items = list(range(total))
    parts = [JobPart(index=index, count=count) for index in range(count)]
    dealt = [item for part in parts for item in part.deal(items)]
    assert sorted(dealt) == items
    spans = [part.span(total) for part in parts]
    assert [number for span in spans for number in span] == items
    for sizes in ([len(part.deal(items)) for part in parts], [len(span) for span in spans]):
        assert max(sizes) - min(sizes) <= 1


SLURM = {"SLURM_ARRAY_TASK_ID": "30", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "10"}
STEPS = {**SLURM, "SLURM_ARRAY_TASK_MAX": "40", "SLURM_ARRAY_TASK_STEP": "10"}


@pytest.mark.parametrize(
    ("given_count", "given_id", "environment", "expected"),
    [
        (None, None, STEPS, None),
        ("3", "2", STEPS, (2, 3)),
        ("auto", None, STEPS, (2, 4)),
        ("auto", "auto", {"AWS_BATCH_JOB_ARRAY_INDEX": "5", "AWS_BATCH_JOB_ARRAY_SIZE": "8"}, (5, 8)),
        ("8", "auto", {"JOB_COMPLETION_INDEX": "7"}, (7, 8)),
        # A task that is submitted again keeps its number.
        (
            "10",
            "auto",
            {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "1", "SLURM_ARRAY_TASK_MIN": "3"},
            (3, 10),
        ),
    ],
)
def test_what_a_job_array_says(
    given_count: str | None, given_id: str | None, environment: Mapping[str, str], expected: tuple[int, int] | None
) -> None:
    part = PartOptions(num_parts=given_count, part_id=given_id).part(environment)
    assert (part and (part.index, part.count)) == expected


@pytest.mark.parametrize(
    ("count", "index", "environment", "said"),
    [
        ("3", None, {}, "--num-parts needs --part-id"),
        (None, "1", {}, "--part-id needs --num-parts"),
        ("3", "3", {}, "counts from 0"),
        ("auto", None, {}, "job array"),
        ("auto", None, {"JOB_COMPLETION_INDEX": "1"}, "Give --num-parts"),
        ("auto", None, {**STEPS, "SLURM_ARRAY_TASK_MAX": "90"}, "gaps"),
        ("auto", None, {**STEPS, "SLURM_ARRAY_TASK_ID": "35"}, "evenly spaced"),
        ("auto", None, {**STEPS, "JOB_COMPLETION_INDEX": "1"}, "one job array"),
        ("8", "auto", {"AWS_BATCH_JOB_ARRAY_INDEX": "x"}, "whole number"),
    ],
)
def test_what_is_missing_is_named(
    count: str | None, index: str | None, environment: Mapping[str, str], said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        PartOptions(num_parts=count, part_id=index).part(environment)
    assert said in str(caught.value)


@pytest.mark.parametrize("wrong", ["0", "-1", "1.5", "many"])
def test_a_number_of_parts_is_a_positive_number(wrong: str) -> None:
    with pytest.raises(UsageError):
        PartOptions(num_parts=wrong)


@pytest.mark.parametrize(
    "text", ["local:1", "local:16", "tcp://127.0.0.1:8786", "tcp://localhost:1", "tcp://[::1]:8786", "tls://host:8786"]
)
def test_a_cluster_on_loopback_or_with_tls_is_taken(text: str) -> None:
    assert PartOptions(cluster=text).cluster == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tcp://10.0.0.1:8786", "Start scheduler and workers with --protocol tls"),
        ("tcp://cluster.example:8786", "whoever reaches any other can run programs as you"),
        ("tcp://127.0.0.1.example:8786", "whoever reaches"),
        ("local", "local:N"),
        ("local:0", "local:N"),
        ("ucx://127.0.0.1:1", "local:N"),
        ("http://127.0.0.1:8787", "local:N"),
    ],
)
def test_a_cluster_that_anybody_can_reach_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        PartOptions(cluster=text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        {"cluster": "local:2", "devices": "cpu:2"},
        {"cluster": "local:2", "num_parts": "2", "part_id": "0"},
        {"cluster": "local:2", "scheduler_file": "s.json"},
        {"scheduler_file": "s.json", "devices": "0"},
    ],
)
def test_a_run_is_shared_in_one_way(words: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="each say who shares a run"):
        PartOptions(**words)
