"""An input that changes while it is read makes no mask: neither of the old content, nor of the new, nor of both."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from typing_extensions import override

from magnet_cli.errors import SourceError
from magnet_cli.events import Events, Step
from magnet_cli.geometry import Size
from magnet_cli.images import InputStates, tiff
from magnet_cli.images.read_samples import ReadSamples
from magnet_cli.options.refine import RefineOptions
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.refinement.api import refine
from magnet_cli.segmentation.api import segment
from magnet_cli.segmentation.image_run import ImageRun
from tests.files import tree
from tests.laws.support import coded, labels_in, random_labels, sides, template_bundle

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIZE = Size(width=257, height=200)


@dataclass
class Meddling(Events):
    """Events that change a file when the first group is done."""

    meddle: Callable[[], object]
    messages: list[str] = field(default_factory=list)
    was_called: bool = False

    @override
    def step(self, step: Step) -> None:
        if step.what.startswith("pass") and step.done and not self.was_called:
            self.was_called = True
            self.meddle()

    @override
    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return template_bundle(tmp_path_factory.mktemp("bundle") / "template", scales=(32, 64))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return written(tmp_path / "in.tif", seed=0)


def written(path: Path, *, seed: int) -> Path:
    """Return an image without compression, so that others have the same length."""
    tifffile.imwrite(path, coded(random_labels(SIZE, seed=seed)), tile=(64, 64), photometric="rgb")
    return path


def options(bundle: Path, **more: object) -> SegmentOptions:
    return SegmentOptions(weights=str(bundle), scales=sides(64, 32), **more)  # type: ignore[arg-type] # few are given


def refused(image: Path, out: Path, wanted: SegmentOptions, events: Meddling) -> SourceError:
    """Return the failure of the image, and check that the folder holds only the journal, kept apart."""
    (result,) = segment(image, out / "m.tif", wanted, events=events)
    assert events.was_called
    assert isinstance(result.error, SourceError)
    assert result.error.exit_code == 3
    assert "changed while it was read" in str(result.error)
    assert sorted(path.name for path in out.iterdir()) == ["m.tif.changed.journal"]
    assert any("m.tif.changed.journal" in text for text in events.messages)
    return result.error


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(100))


def replace(path: Path) -> None:
    other = written(path.with_name("other"), seed=1)
    os.replace(other, path)  # noqa: PTH105 (over the name)


def modify(path: Path) -> None:
    """Exchange the pixels of the whole file, and keep its length and time."""
    before, length = path.stat(), path.stat().st_size
    other = written(path.with_name("other"), seed=1)
    data = other.read_bytes()
    other.unlink()
    assert len(data) == length
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the image be so old that its time of change tells of every later one. It then stays open from its plan on."""
    monkeypatch.setattr("magnet_cli.images.input_states.SETTLING", 20_000_000)
    time.sleep(0.04)


@pytest.mark.parametrize("is_settled", [False, True])
@pytest.mark.parametrize("meddle", [grow, replace, modify])
def test_no_mask_is_made_of_an_image_that_changes(
    bundle: Path,
    image: Path,
    tmp_path: Path,
    meddle: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_settled: bool,
) -> None:
    out = tmp_path / "out"
    if is_settled:
        settle(monkeypatch)
    error = refused(image, out, options(bundle), Meddling(lambda: meddle(image)))
    assert error.file == str(image)
    if meddle is replace:
        (result,) = segment(image, out / "m.tif", options(bundle))
        assert result.error is None, "the same command begins anew"
        np.testing.assert_array_equal(labels_in(result.mask), random_labels(SIZE, seed=1))


def test_pixels_are_compared_where_the_fingerprint_sees_no_change(
    bundle: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magnet_cli.images.input_states.fingerprint", lambda *_: "the same")
    error = refused(image, tmp_path / "out", options(bundle), Meddling(lambda: modify(image)))
    assert "the pixels in box" in str(error)


def test_an_image_that_nothing_has_written_to_is_not_opened_again(
    bundle: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[object] = []
    settle(monkeypatch)
    monkeypatch.setattr(ReadSamples, "refuse_difference", lambda _, again: compared.append(again))
    segment(image, tmp_path / "a.tif", options(bundle))
    assert not compared
    segment(image, tmp_path / "b.tif", options(bundle), events=Meddling(image.touch))
    assert len(compared) == 1


@pytest.mark.parametrize("meddle", [None, replace, modify])
def test_an_image_is_opened_once_unless_it_changes_before_it_is_noted(
    bundle: Path,
    image: Path,
    tmp_path: Path,
    meddle: Callable[[Path], None] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settle(monkeypatch)
    opened: list[object] = []
    note, open_tiff = ImageRun.inputs, tiff.open_tiff

    def noted(run: ImageRun) -> InputStates:
        if meddle is not None:
            meddle(image)
        return note(run)

    def counted(*given: Any, **how: Any) -> Any:
        opened.append(given)
        return open_tiff(*given, **how)

    monkeypatch.setattr(ImageRun, "inputs", noted)
    monkeypatch.setattr(tiff, "open_tiff", counted)
    (result,) = segment(image, tmp_path / "m.tif", options(bundle))
    assert result.error is None
    np.testing.assert_array_equal(labels_in(result.mask), random_labels(SIZE, seed=0 if meddle is None else 1))
    assert (len(opened) == 1) is (meddle is None)


def test_an_image_that_is_removed_is_refused(bundle: Path, image: Path, tmp_path: Path) -> None:
    error = refused(image, tmp_path / "out", options(bundle), Meddling(image.unlink))
    assert "removed" in str(error)


def test_a_new_time_alone_is_no_change(bundle: Path, image: Path, tmp_path: Path) -> None:
    (result,) = segment(image, tmp_path / "m.tif", options(bundle), events=Meddling(image.touch))
    assert result.error is None


def test_an_interrupted_run_over_an_image_that_changed_is_never_resumed(
    bundle: Path, image: Path, tmp_path: Path
) -> None:
    def interrupt() -> None:
        grow(image)
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        segment(image, out / "m.tif", options(bundle), events=Meddling(interrupt))
    assert set(tree(out)) == {"m.tif.changed.journal"}


def test_files_that_say_where_to_look_may_not_change(bundle: Path, image: Path, tmp_path: Path) -> None:
    roi = tmp_path / "roi.geojson"
    roi.write_text('{"type": "Polygon", "coordinates": [[[0, 0], [200, 0], [200, 200], [0, 200], [0, 0]]]}')
    events = Meddling(lambda: roi.write_text(roi.read_text().replace("200", "100")))
    error = refused(image, tmp_path / "out", options(bundle, roi=roi), events)
    assert error.file == str(roi)


def test_a_mask_that_is_refined_may_not_change(image: Path, tmp_path: Path) -> None:
    mask = tmp_path / "mask.tif"
    tifffile.imwrite(mask, (random_labels(SIZE) > 1).astype(np.uint8), tile=(64, 64))
    wanted = RefineOptions(method="guided")
    with pytest.raises(SourceError, match="changed while it was read"):
        refine(image, mask, tmp_path / "out" / "m.tif", wanted, events=Meddling(lambda: grow(mask)))
    assert not (tmp_path / "out" / "m.tif").exists()
