"""In a real browser, places, alignment, colours, the slider, the keys and the pointer of the page are right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from magnet_cli.images import fingerprint
from magnet_cli.report.viewer.exhibit import open_exhibit
from tests.exports.support import CLASSES, write_mask
from tests.report.viewer.conftest import SIZE
from tests.report.viewer.devtools import chromium
from tests.report.viewer.growth import GrowingMask
from tests.report.viewer.support import place_values, served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.report.viewer.devtools import Tab

pytestmark = pytest.mark.full
COLOURS = np.array([np.frombuffer(entry.rgb, np.uint8) for entry in CLASSES]).astype(float)
PIXELS = place_values(SIZE).astype(float)
ROUNDED = 2
"""Steps of 255 by which a blended colour may differ from the exact one: the browser rounds twice."""


@pytest.fixture(scope="module")
def page(image: Path, mask: Path, truth: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Tab, str]]:
    """Return Chromium, and the address of a page with the image, a mask of this program and the truth."""
    with (
        open_exhibit(str(image), [mask, truth]) as exhibit,
        served(exhibit) as address,
        chromium(tmp_path_factory.mktemp("profile")) as tab,
    ):
        yield tab, address


def view(tab: Tab) -> tuple[float, float]:
    """Return width and height of the view, which begins at the page's upper left corner."""
    width, height = tab.run("[$('view').clientWidth, $('view').clientHeight]")
    return float(width), float(height)


def screen(tab: Tab, x: float, y: float, place: tuple[float, float, float]) -> tuple[int, int]:
    """Return the pixel of the screen on which a level-0 point lies, computed without the page's code."""
    width, height = view(tab)
    return int(width / 2 + (x - place[0]) * place[2]), int(height / 2 + (y - place[1]) * place[2])


def test_the_page_asks_no_other_host_and_has_no_error(page: tuple[Tab, str]) -> None:
    tab, address = page
    tab.open(address)
    asked = [url for url in tab.requested() if not url.startswith(("data:", "about:"))]
    assert len(asked) > 5
    assert all(url.startswith(address) for url in asked), asked
    assert tab.complaints() == []


def test_single_pixels_have_the_images_values(page: tuple[Tab, str]) -> None:
    tab, address = page
    place = (700.5, 500.5, 16.0)
    tab.open(f"{address}#x={place[0]}&y={place[1]}&z={place[2]}&off=1")
    shot = tab.picture()
    for x, y in ((700, 500), (680, 490), (715, 515), (700, 512), (681, 511)):
        column, row = screen(tab, x + 0.5, y + 0.5, place)
        assert shot[row, column].tolist() == PIXELS[y, x].tolist(), (x, y)
        # Its neighbours begin exactly half a pixel away: a pixel is a square of 16 screen pixels.
        for edge in (-7, 6):
            assert shot[row, column + edge].tolist() == PIXELS[y, x].tolist(), (x, y, edge)
            assert shot[row + edge, column].tolist() == PIXELS[y, x].tolist(), (x, y, edge)


@pytest.mark.parametrize("zoom", [0.25, 0.5, 1.0, 3.0, 16.0])
def test_the_mask_lies_where_it_belongs(page: tuple[Tab, str], zoom: float) -> None:
    """The screenshot has the edges of class 1 exactly at the pixels where they belong."""
    tab, address = page
    for corner in ((511, 301), (907, 702)):
        place = (float(corner[0]), float(corner[1]), zoom)
        tab.open(f"{address}#x={place[0]}&y={place[1]}&z={place[2]}&opacity=100&other=0")
        shot = tab.picture().astype(int)
        width, height = view(tab)
        inside = (shot == COLOURS[1]).all(axis=2)[: int(height), : int(width)]
        # Level 0 has odd edges; smaller versions round them to their own pixels, at most one of them off.
        allowed = max(1.0, zoom * 2 ** max(0, int(np.ceil(-np.log2(zoom)))))
        row, column = (
            int(height / 2) + (5 if corner[1] == 301 else -5),
            int(width / 2) + (5 if corner[0] == 511 else -5),
        )
        across, down = np.flatnonzero(inside[row]), np.flatnonzero(inside[:, column])
        edges = (across[0], down[0]) if corner == (511, 301) else (across[-1] + 1, down[-1] + 1)
        assert abs(edges[0] - width / 2) <= allowed, (zoom, corner)
        assert abs(edges[1] - height / 2) <= allowed, (zoom, corner)


@pytest.mark.parametrize("zoom", [0.5, 1.0, 4.0])
def test_image_and_mask_meet(page: tuple[Tab, str], zoom: float) -> None:
    """The blue band of the image is a chessboard with squares of 64 pixels, whose edges the screenshot has to show."""
    tab, address = page
    place = (640.0, 500.0, zoom)
    tab.open(f"{address}#x={place[0]}&y={place[1]}&z={place[2]}&off=1")
    shot = tab.picture().astype(int)
    width, height = view(tab)
    blue = shot[int(height / 2) + 1, : int(width), 2]
    change = int(np.abs(np.diff(blue))[int(width / 2) - 12 : int(width / 2) + 12].argmax()) - 12
    assert abs(change + 1) <= 1, (zoom, change)


def test_colours_and_slider(page: tuple[Tab, str]) -> None:
    tab, address = page
    place = (700.5, 500.5, 16.0)
    tab.open(f"{address}#x={place[0]}&y={place[1]}&z={place[2]}&opacity=50&other=0")
    column, row = screen(tab, 700.5, 500.5, place)
    for opacity in (50, 25, 100, 0):
        tab.run(f"$('opacity').value = {opacity}; $('opacity').dispatchEvent(new Event('input'))")
        tab.settle()
        expected = PIXELS[500, 700] * (1 - opacity / 100) + COLOURS[1] * opacity / 100
        assert np.abs(tab.picture()[row, column] - expected).max() <= ROUNDED, opacity
        assert tab.run("$('opacity-value').textContent") == f"{opacity} %"


def test_keys_and_classes(page: tuple[Tab, str]) -> None:
    tab, address = page
    place = (700.5, 500.5, 16.0)
    tab.open(f"{address}#x={place[0]}&y={place[1]}&z={place[2]}&opacity=90&other=1")
    column, row = screen(tab, 700.5, 500.5, place)
    bare, covered = PIXELS[500, 700], PIXELS[500, 700] * 0.1 + COLOURS[1] * 0.9

    def shows(expected: NDArray[np.float64]) -> bool:
        tab.settle()
        return bool(np.abs(tab.picture()[row, column] - expected).max() <= ROUNDED)

    assert shows(covered)
    tab.key("m")
    assert shows(bare)
    tab.key("m")
    assert shows(covered)
    tab.key("]")
    assert shows(COLOURS[1])
    tab.key("[")
    tab.key("o")
    # The middle of an area has no outline.
    assert shows(bare)
    assert tab.run("$('form').value") == "outline"
    tab.key("o")
    tab.key("o")
    assert shows(covered)
    tab.run("$('classes').querySelectorAll('input')[1].click()")
    assert shows(bare)
    assert "hidden=1" in tab.run("location.hash")
    tab.run("$('all').click()")
    assert shows(covered)
    tab.key("s")
    # The page fetches tiles before it shows what was chosen.
    tab.until("[$('mask').value, $('other').value].join() === '1,0'")
    tab.key("s")
    tab.until("[$('mask').value, $('other').value].join() === '0,1'")
    tab.key("c")
    tab.key("c")
    tab.until("$('how').value === 'differences'")
    assert shows(bare * 0.1 + np.array([0, 0x72, 0xB2]) * 0.9)
    tab.key("0")
    tab.settle()
    left, top, width, height = tab.run(
        "(({x, y, width, height}) => [x, y, width, height])(viewer.viewport.getBounds())"
    )
    assert max(left, top) <= 1e-6
    assert left + width >= SIZE.width - 1e-6
    assert top + height >= SIZE.height - 1e-6
    tab.key("1")
    tab.settle()
    assert tab.run("scale()") == pytest.approx(1)
    before = tab.run("viewer.viewport.getCenter().x")
    tab.key("ArrowRight")
    tab.settle()
    assert tab.run("viewer.viewport.getCenter().x") == pytest.approx(before + 100)
    assert tab.complaints() == []


def test_two_masks_stand_side_by_side(page: tuple[Tab, str]) -> None:
    tab, address = page
    # Columns 507 to 526 are class 1 in the mask from 511 on, and in the truth from 531 on.
    place = (521.0, 500.5, 8.0)
    tab.open(f"{address}#x={place[0]}&y={place[1]}&z={place[2]}&opacity=100&other=1&how=beside")
    shot = tab.picture()
    for x, label in ((509, 0), (513, 1), (519, 1), (523, 0), (529, 0), (533, 1)):
        column, row = screen(tab, x + 0.5, 500.5, place)
        assert shot[row, column].tolist() == COLOURS[label].tolist(), x


def test_the_pointer_names_class_and_place(page: tuple[Tab, str]) -> None:
    tab, address = page
    place = (700.5, 500.5, 16.0)
    tab.open(f"{address}#x={place[0]}&y={place[1]}&z={place[2]}")
    for x, y, names in ((511 + 180, 500, "Gebäude & Höfe"), (700, 510, "Gebäude & Höfe")):
        tab.move(*screen(tab, x + 0.5, y + 0.5, place))
        tab.until(f"$('under').textContent.includes('mask.tif: {names}')")
        text = tab.run("$('place').textContent")
        assert f"x {x}, y {y} px" in text
        assert f"{400000 + (x + 0.5) / 2:.2f}"[:8] in text
        assert f"{5000000 - (y + 0.5) / 2:.2f}"[:9] in text
        assert "32633" in text


def test_the_scale_bar_is_as_long_as_it_says(page: tuple[Tab, str]) -> None:
    tab, address = page
    tab.open(f"{address}#x=600&y=500&z=2")
    value, unit, across = tab.run("document.body.dataset.bar").split()
    # A pixel of the image is half a metre and two pixels of the screen.
    assert unit == "m"
    assert float(across) == pytest.approx(float(value) * 4)


def test_a_link_shows_the_same_place_again(page: tuple[Tab, str]) -> None:
    tab, address = page
    tab.open(f"{address}#x=600.25&y=400.75&z=3&opacity=30&form=pattern&hidden=0&other=1&how=beside")
    first, shot = tab.run("location.href"), tab.picture()
    tab.key("0")
    tab.settle()
    tab.open(first)
    assert tab.run("location.href") == first
    # Beside the view, Chromium may draw the dots of letters again by a shade when a text of the panel is set.
    width, height = (int(side) for side in view(tab))
    assert np.array_equal(tab.picture()[:height, :width], shot[:height, :width])


def test_a_mask_that_is_being_computed_grows_on_the_page(
    page: tuple[Tab, str], image: Path, labels: NDArray[np.uint8], tmp_path: Path
) -> None:
    tab, _ = page
    with GrowingMask.begin(tmp_path / "m.tif", image, labels, block=450) as run:
        run.compute(1)
        with open_exhibit(str(image), [run.path]) as exhibit, served(exhibit) as address:
            tab.send("Network.clearBrowserCache")
            # The border of the first two groups, column 450, lies in the middle.
            place = (450.5, 400.5, 2.0)
            tab.open(f"{address}#x={place[0]}&y={place[1]}&z={place[2]}&opacity=100")

            def shown(x: int) -> list[int]:
                column, row = screen(tab, x + 0.5, 400.5, place)
                values: list[int] = tab.picture()[row, column].tolist()
                return values

            assert shown(445) == COLOURS[0].tolist()
            assert shown(455) == PIXELS[400, 455].tolist()
            tab.until("$('progress').textContent.includes('1 of 9 groups of windows, 11 %')")
            asked = len(tab.requested())
            run.compute(1)
            tab.until("$('progress').textContent.includes('2 of 9')")
            tab.settle()
            # Column 600 has class 1 in this row; it was not computed before.
            assert shown(600) == COLOURS[1].tolist()
            assert shown(455) == COLOURS[0].tolist()
            tiles = [url for url in tab.requested()[asked:] if "/mask/" in url]
            # The group lies in the first two columns of tiles. The others keep their address and are not fetched again.
            assert tiles
            assert not [url for url in tiles if "/mask/0/0/2/" in url]
            # A page that is loaded again shows no tile that the browser has kept from before the group.
            tab.open(f"{address}#x={place[0]}&y={place[1]}&z={place[2]}&opacity=100")
            assert shown(600) == COLOURS[1].tolist()
            run.compute(9)
            tab.until("$('progress').textContent.includes('The file of the mask is being written.')")
            run.finish()
            tab.until("$('progress-section').hidden")
            tab.settle()
            assert shown(600) == COLOURS[1].tolist()
            assert tab.complaints() == []


def test_a_region_is_painted_and_a_polygon_drawn(
    page: tuple[Tab, str], image: Path, labels: NDArray[np.uint8], tmp_path: Path
) -> None:
    tab, _ = page
    mask = write_mask(tmp_path / "m.tif", labels, resolution=None, made_of=fingerprint(image))
    with open_exhibit(str(image), [mask]) as exhibit, served(exhibit) as address:
        place = (300.0, 250.0, 2.0)
        tab.open(f"{address}#x={place[0]}&y={place[1]}&z={place[2]}&opacity=0")
        tab.until("$('saved').textContent.includes('m.corrections.geojson')")

        def drag(*points: tuple[float, float]) -> None:
            for number, point in enumerate(points):
                kind = "mousePressed" if number == 0 else "mouseMoved"
                column, row = screen(tab, *point, place)
                tab.send("Input.dispatchMouseEvent", type=kind, x=column, y=row, button="left", buttons=1, clickCount=1)
            column, row = screen(tab, *points[-1], place)
            tab.send("Input.dispatchMouseEvent", type="mouseReleased", x=column, y=row, button="left", clickCount=1)

        def saved(count: int) -> list[dict[str, object]]:
            tab.until(f"$('saved').textContent.startsWith('{count} correction')")
            assert exhibit.corrections[0] is not None
            found: Any = exhibit.corrections[0].read()["corrections"]
            assert len(found) == count
            return list(found)

        tab.key("b")
        tab.run("$('correction-class').value = 2; $('correction-class').dispatchEvent(new Event('change'))")
        tab.run("$('brush').value = 40; $('brush').dispatchEvent(new Event('input'))")
        drag((200.0, 200.0), (250.0, 200.0), (300.0, 200.0))
        (stroke,) = saved(1)
        # The brush is 40 pixels of the screen wide, which are 20 of the image.
        assert stroke["label"] == 2
        assert stroke["area"] == pytest.approx(100 * 20 + np.pi * 100, rel=0.03)
        # The image has not moved.
        assert tab.run("[viewer.viewport.getCenter().x, viewer.viewport.getCenter().y]") == pytest.approx([300, 250])
        tab.move(*screen(tab, 400.0, 400.0, place))
        column, row = screen(tab, 250.5, 200.5, place)
        expected = PIXELS[200, 250] * 0.25 + COLOURS[2] * 0.75
        assert np.abs(tab.picture()[row, column] - expected).max() <= ROUNDED

        tab.key("p")
        tab.run("$('correction-class').value = 1; $('correction-class').dispatchEvent(new Event('change'))")
        for corner in ((150.0, 300.0), (250.0, 300.0), (250.0, 380.0), (150.0, 380.0)):
            tab.click(*screen(tab, *corner, place))
            # Clicks that follow at once are double clicks.
            tab.run("new Promise((done) => setTimeout(done, 350))")
        tab.key("Enter")
        _, polygon = saved(2)
        assert polygon["label"] == 1
        assert polygon["area"] == pytest.approx(100 * 80, rel=0.03)
        tab.move(*screen(tab, 200.5, 340.5, place))
        tab.until("$('under').textContent.endsWith('corrected: Gebäude & Höfe')")

        # With keys alone: the cross is the middle of the view.
        for moves in ("", "ArrowRight", "ArrowDown"):
            if moves:
                tab.key(moves)
                tab.settle()
            tab.key(" ")
        tab.key("Enter")
        assert saved(3)[2]["area"] == pytest.approx(50 * 50 / 2, rel=0.03)

        tab.key("u")
        saved(2)
        assert tab.complaints() == []


def test_corrections_are_undone_removed_and_never_overwritten_unseen(
    page: tuple[Tab, str], image: Path, labels: NDArray[np.uint8], tmp_path: Path
) -> None:
    tab, _ = page
    mask = write_mask(tmp_path / "m.tif", labels, resolution=None, made_of=fingerprint(image))
    with open_exhibit(str(image), [mask]) as exhibit, served(exhibit) as address:
        held: Any = exhibit.corrections[0]
        first = {"label": 2, "line": [[200, 200]], "width": 50}
        second = {"label": 1, "polygons": [[[[150, 300], [250, 300], [250, 380]]]]}
        held.write({"revision": "", "corrections": [first, second]})

        def saved(count: int) -> list[int]:
            tab.until(f"$('saved').textContent.startsWith('{count} correction')")
            return [entry["label"] for entry in held.read()["corrections"]]

        tab.open(f"{address}#x=300&y=250&z=2&opacity=0")
        assert saved(2) == [2, 1]
        # What happens elsewhere on the page leaves the focus where it is.
        tab.run("$('corrections').querySelector('button').focus()")
        tab.run("refresh()")
        assert tab.run("document.activeElement.textContent") == "4,000 px"
        # The list begins with the latest one.
        tab.run("$('corrections').querySelector('[data-remove]').click()")
        assert saved(1) == [2]
        tab.run("$('undo').click()")
        assert saved(2) == [2, 1]
        # Where nothing was changed on this page, undoing takes the latest correction away.
        tab.run("$('undo').click()")
        assert saved(1) == [2]
        # What another page has changed meanwhile is not overwritten.
        held.write({"revision": held.read()["revision"], "corrections": []})
        tab.run("$('undo').click()")
        tab.until("$('saved').textContent.includes('Reload the page')")
        assert held.read()["corrections"] == []
        assert [text for text in tab.complaints() if "409" not in text] == []


def test_a_mask_that_finishes_hides_no_change_of_another(
    page: tuple[Tab, str], image: Path, labels: NDArray[np.uint8], tmp_path: Path
) -> None:
    tab, _ = page
    with (
        GrowingMask.begin(tmp_path / "a.tif", image, labels, block=450) as first,
        GrowingMask.begin(tmp_path / "b.tif", image, labels, block=450) as second,
    ):
        first.compute(1)
        second.compute(1)
        with open_exhibit(str(image), [first.path, second.path]) as exhibit, served(exhibit) as address:
            place = (600.0, 300.0, 1.0)
            tab.open(f"{address}#x={place[0]}&y={place[1]}&z={place[2]}&mask=1&other=0&opacity=100")
            tab.until("$('progress').children.length === 2")
            column, row = screen(tab, 600.5, 400.5, place)
            assert np.abs(tab.picture()[row, column] - PIXELS[400, 600]).max() <= ROUNDED
            # Both happen between two questions of the page.
            second.compute(1)
            first.finish()
            tab.until("state.masks[0].version === null")
            tab.settle()
            assert tab.picture()[row, column].tolist() == COLOURS[1].tolist()
            # What changes later is shown as well.
            column, row = screen(tab, 300.5, 455.5, place)
            second.compute(2)
            tab.until("$('progress').textContent.includes('4 of 9')")
            tab.settle()
            assert tab.picture()[row, column].tolist() == COLOURS[0].tolist()
            # Tiles of the version before are refused, which the browser logs.
            assert [text for text in tab.complaints() if "409" not in text] == []
