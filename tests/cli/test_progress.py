"""One bar shows how much of a whole run is done: all passes, the writing of the mask, and all images of a folder."""

from __future__ import annotations

import io
import re
import sys
from typing import TYPE_CHECKING

import magnet_cli
from magnet_cli.cli.progress import Display, showing
from magnet_cli.errors import SourceError
from magnet_cli.events import Events, Images, Step
from tests.cli.support import write_image

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

PERCENT = re.compile(r"(\d+)%")


class Terminal(io.StringIO):
    """A standard error that says that it is a terminal, and keeps what is written."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Put a terminal in place of standard error. A fixture could not: pytest puts its own back before a test begins."""
    found = Terminal()
    monkeypatch.setattr(sys, "stderr", found)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    return found


def shown(display: Display) -> tuple[str, float | None]:
    """What the bar of a display says, and the share that it has reached."""
    (task,) = display._bar.tasks
    return task.description, None if task.total is None else task.completed / task.total


def test_the_bar_counts_passes_and_writing_together(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    with Display(enabled=True) as display:
        display.step(Step(image="a.tif", what="pass 1 of 2", done=4, total=4, share=0.2))
        assert shown(display) == ("a.tif, pass 1 of 2", 0.2)
        display.step(Step(image="a.tif", what="pass 2 of 2", done=0, total=9, share=0.2))
        assert shown(display) == ("a.tif, pass 2 of 2", 0.2)
        display.step(Step(image="a.tif", what="writing", done=0, total=1, share=0.9))
        display.step(Step(image="a.tif", what="writing", done=1, total=1, share=1.0))
        display.step(Step(image="a.tif", what="drawing", done=0, total=1))
        assert shown(display) == ("a.tif, drawing", 1.0)
    assert "left" in screen.getvalue()


def test_the_bar_of_a_folder_counts_images_and_the_part_of_the_one_that_is_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = terminal(monkeypatch)
    with Display(enabled=True) as display:
        display.images(Images(done=0, total=4, failed=0))
        assert shown(display) == ("0 of 4 images", 0.0)
        display.step(Step(image="a.tif", what="pass 1 of 1", done=1, total=2, share=0.5))
        assert shown(display) == ("0 of 4 images: a.tif, pass 1 of 1", 0.125)
        display.step(Step(image="a.tif", what="writing", done=0, total=1, share=0.9))
        # The next image is computed while this one is written, and the bar does not go back.
        display.step(Step(image="b.tif", what="pass 1 of 1", done=0, total=2, share=0.0))
        assert shown(display) == ("0 of 4 images: b.tif, pass 1 of 1", 0.225)
        display.step(Step(image="a.tif", what="writing", done=1, total=1, share=1.0))
        assert shown(display)[0] == "0 of 4 images: b.tif, pass 1 of 1"
        display.images(Images(done=1, total=4, failed=0))
        assert shown(display)[1] == 0.25
        display.step(Step(image="b.tif", what="writing", done=1, total=1, share=1.0))
        display.failed("c.tif", SourceError("broken", file="c.tif"))
        display.images(Images(done=3, total=4, failed=1))
        assert shown(display) == ("3 of 4 images, 1 failed: b.tif, writing", 0.75)
    assert "magnet: c.tif: broken" in screen.getvalue()


def test_the_bar_of_a_folder_follows_the_sizes_of_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal(monkeypatch)
    with Display(enabled=True) as display:
        display.images(Images(done=0, total=2, failed=0, finished=0.0, following=0.1))
        display.step(Step(image="a.tif", what="pass 1 of 1", done=1, total=2, share=0.5))
        assert shown(display) == ("0 of 2 images: a.tif, pass 1 of 1", 0.05)
        display.images(Images(done=1, total=2, failed=0, finished=0.1, following=0.9))
        display.step(Step(image="b.tif", what="pass 1 of 1", done=1, total=2, share=0.5))
        assert shown(display) == ("1 of 2 images: b.tif, pass 1 of 1", 0.55)
        display.images(Images(done=2, total=2, failed=0, finished=1.0, following=0.0))
        assert shown(display)[1] == 1.0


def test_work_without_a_share_of_the_whole_has_a_bar_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal(monkeypatch)
    with Display(enabled=True) as display:
        display.step(Step(image="m.tif", what="finding objects", done=3, total=3))
        assert shown(display) == ("m.tif, finding objects", 1.0)
        display.step(Step(image="m.tif", what="pass 1 of 1", done=1, total=4, share=0.2))
        assert shown(display) == ("m.tif, pass 1 of 1", 0.2)


def test_a_bar_that_knows_nothing_has_no_total(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    with showing("m.tif", "checking", enabled=True):
        pass
    assert "m.tif, checking" in screen.getvalue()
    assert not PERCENT.findall(screen.getvalue())


def test_a_run_says_its_share_of_all_passes_and_of_the_writing(image: Path, bundle: Path) -> None:
    class Heard(Events):
        def __init__(self) -> None:
            self.steps: list[Step] = []

        def step(self, step: Step) -> None:
            self.steps.append(step)

    heard = Heard()
    options = magnet_cli.SegmentOptions(weights=str(bundle), scales="32,64,1024")
    magnet_cli.segment(image, "m.tif", options, events=heard)
    kinds = list(dict.fromkeys(step.what for step in heard.steps))
    assert kinds[0].startswith("pass 1 of ")
    assert kinds[-1] == "writing"
    assert len(kinds) > 2
    shares = [step.share for step in heard.steps if step.share is not None]
    assert len(shares) == len(heard.steps)
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.5
    assert shares[-1] == 1


def test_the_bar_of_a_folder_reaches_the_end_and_never_goes_back(
    image: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(image.with_name("t.tif"))
    screen = terminal(monkeypatch)
    with Display(enabled=True) as display:
        magnet_cli.segment(["s.tif", "t.tif"], "out", magnet_cli.SegmentOptions(weights=str(bundle)), events=display)
        assert shown(display)[1] == 1
    percents = [int(found) for found in PERCENT.findall(screen.getvalue())]
    assert percents == sorted(percents)
    assert percents[-1] == 100
