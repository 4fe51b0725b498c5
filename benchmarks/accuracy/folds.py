"""Backbones and refiners that have not seen a scene, from the configurations of the bundle `aerial`.

    python -m benchmarks.accuracy.folds --work WORK --scene tile7

For a held-out scene this trains the backbone fitted to the five others (WORK/bundles/out7), those fitted without one
more of the held-out scenes (out47 and out67, which serve two folds each), and the refiner and temperatures that these
give. Every training goes on where it was interrupted, and one that is finished is not begun again.
"""

from __future__ import annotations

import argparse
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from benchmarks.accuracy.scenes import PART, WHOLE
from magnet_cli.models.description import DESCRIPTION
from magnet_cli.train.backbone_training import train_backbone
from magnet_cli.train.config import TrainConfig
from magnet_cli.train.refiner_training import train_refiner

if TYPE_CHECKING:
    from collections.abc import Mapping

REFINER_CONFIG = Path(__file__).with_name("refiner.toml")
TILES = ("tile1", "tile2", "tile3", "tile4", "tile6", "tile7")
HELD_OUT = ("tile4", "tile6", "tile7")


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the backbones of the folds are made."""

    config: Path
    inner: int
    """Iterations of a backbone for fields that something is fitted to."""
    outer: Mapping[str, int] = field(default_factory=dict)
    """Iterations of a backbone for a held-out scene, where they are not the configuration's."""

    def iterations(self, out: tuple[str, ...]) -> int | None:
        """Of a backbone without some scenes; None for the configuration's."""
        return self.outer.get(out[0]) if len(out) == 1 else self.inner


AERIAL = Training(
    config=Path(__file__).parents[2] / "weights" / "aerial" / "train.toml",
    inner=1000,
    outer={"tile4": 2200, "tile6": 2200},
)
"""Of tile 7 as many as the shipped one's, 3,000."""
CURVES = Training(config=Path(__file__).with_name("curves.toml"), inner=700)

Kind = Literal["", "-published", "-per-stage"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""Of refiners, by what they add to a bundle's name."""


def named(out: tuple[str, ...]) -> str:
    """`out47` for the scenes that are left out."""
    return "out" + "".join(sorted(scene.removeprefix("tile") for scene in out))


def replaced(text: str, key: str, value: str) -> str:
    """A TOML text with the first line of a key changed."""
    found, count = re.subn(rf"^{key} = .*$", f"{key} = {value}", text, count=1, flags=re.MULTILINE)
    if not count:
        message = f"the configuration has no key {key}"
        raise ValueError(message)
    return found


def backbone_config(out: tuple[str, ...], training: Training = AERIAL) -> TrainConfig:
    """A configuration without some scenes."""
    text = training.config.read_text(encoding="utf-8")
    text = replaced(text, "scenes", str([tile for tile in TILES if tile not in out]).replace("'", '"'))
    iterations = training.iterations(out)
    return TrainConfig.parse(text if iterations is None else replaced(text, "iterations", str(iterations)))


def refiner_config(scene: str, bundles: Path, *, kind: Kind = "") -> TrainConfig:
    """As refiner.toml has it, with other scenes and existing backbones; of tile 7 only a part is fitted to.

    Args:
        scene: That is held out.
        bundles: Where backbones are.
        kind: Nothing; `-published` for fields of the backbone's own scenes, each scale directly over the coarsest, as
            the published program trains; `-per-stage` for a refiner at each scale.
    """
    inner = [other for other in HELD_OUT if other != scene]
    part = {WHOLE: PART}
    text = REFINER_CONFIG.read_text(encoding="utf-8")
    scenes = [part.get(tile, tile) for tile in TILES if tile != scene]
    text = replaced(text, "scenes", str(scenes).replace("'", '"'))
    backbones = [str((bundles / named((scene, other))).resolve()) for other in inner]
    lines = f"{[[part.get(other, other)] for other in inner]}\nbackbones = {backbones}".replace("'", '"')
    if kind == "-published":
        lines = "[]\naccumulate = false"
    if kind == "-per-stage":
        lines += "\nper_scale = true"
    text = replaced(text, "held_out", lines)
    if kind == "-published":
        text = replaced(replaced(text, "rounds", "0"), "cross", "false")
    return TrainConfig.parse(text)


def backbone(work: Path, out: tuple[str, ...], training: Training = AERIAL) -> Path:
    """Train a backbone, unless it is there."""
    folder = work / "bundles" / named(out)
    if not (folder / DESCRIPTION).exists():
        train_backbone(work / "dubai" / "scenes.csv", folder, backbone_config(out, training), progress=print)
    return folder


def main() -> None:
    """Train what is missing for the scenes that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("accuracy-work"))
    parser.add_argument("--scene", action="append", choices=HELD_OUT)
    parser.add_argument("--kind", action="append", choices=KINDS)
    args = parser.parse_args()
    for scene in args.scene or HELD_OUT:
        folder = backbone(args.work, (scene,))
        for other in HELD_OUT:
            if other != scene:
                backbone(args.work, (scene, other))
        for kind in args.kind or KINDS:
            target = folder.with_name(folder.name + kind)
            if kind:
                shutil.copytree(folder, target, dirs_exist_ok=True)
            config = refiner_config(scene, args.work / "bundles", kind=kind)
            train_refiner(args.work / "dubai" / "scenes.csv", target, config, progress=print)


if __name__ == "__main__":
    main()
