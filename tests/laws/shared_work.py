"""A scene whose mask several processes make together, and checks of its outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from magnet_cli.geometry import Size
from magnet_cli.masks.output import OutputPaths
from magnet_cli.masks.verification import verify_mask
from magnet_cli.scene import Pyramid, Scene, write_scene
from tests.laws.driver import Script, forked
from tests.laws.support import blurry_bundle, digest, report_of

if TYPE_CHECKING:
    from pathlib import Path

SCENE = Size(width=700, height=560)
METHOD = ("--scales=512,256,128,64,32", "--overlap=4", "--batch-size=1", "--probabilities")


@dataclass(frozen=True, kw_only=True)
class Work:
    """A scene whose blocks are blended, in two passes, and the mask that one process makes."""

    image: Path
    bundle: Path
    mask: Path
    method: tuple[str, ...] = METHOD

    def words(self, out: Path, *more: str) -> tuple[str, ...]:
        return ("segment", str(self.image), f"--weights={self.bundle}", *self.method, f"-o{out}", *more)

    def spaced(self) -> list[str]:
        """Return the words of the method, each option and its value a word of its own."""
        return [part for word in self.method for part in word.split("=")]

    def part(self, out: Path, index: int, count: int) -> tuple[str, ...]:
        return self.words(out, f"--num-parts={count}", f"--part-id={index}")


def made_work(folder: Path, *, method: tuple[str, ...] = METHOD, size: Size = SCENE) -> Work:
    """Return a scene, a bundle, and the mask that one process makes by a method."""
    image, mask = folder / "scene.tif", folder / "one" / "m.tif"
    write_scene(image, Scene(size=size, seed=2, plain=True), pyramid=Pyramid(tile=128))
    bundle = blurry_bundle(folder / "bundle", scales=(32, 64, 128))
    found = Work(image=image, bundle=bundle, mask=mask, method=method)
    assert forked(Script(words=found.words(mask), log=str(folder / "log"))) == 0
    return found


def check_equal(work: Work, mask: Path) -> None:
    """Check that a finished output equals that of one process, and that nothing is left over."""
    assert digest(mask) == digest(work.mask)
    found, expected = report_of(mask), report_of(work.mask)
    for key in ("hashes", "mask", "passes", "classes", "options", "not_computed", "maps"):
        assert found[key] == expected[key], key
    assert verify_mask(mask).ok
    paths = OutputPaths.of(mask)
    kept = paths.field("probabilities")
    assert sorted(mask.parent.iterdir()) == sorted([mask, paths.report, kept])
    for chunk in sorted(file for file in kept.rglob("*") if file.is_file()):
        other = OutputPaths.of(work.mask).field("probabilities") / chunk.relative_to(kept)
        assert chunk.read_bytes() == other.read_bytes()
