"""Train backbones without one scene, and refiners and temperatures on scenes that those backbones have not seen.

    python -m benchmarks.accuracy.folds --work WORK --scene tile7
    python -m benchmarks.accuracy.folds --work CURVES-WORK --recipe curves

For a held-out scene the first trains a backbone on the five other scenes (WORK/bundles/out7), backbones without one
more of the held-out scenes (out47 and out67, which serve two folds each), and with these the refiner and the
temperatures of out7. The second trains the backbone alone, for an input of 128 x 128 pixels (curves.toml). Every
training goes on where it was interrupted, and a finished one is not repeated.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.accuracy.scenes import PART, WHOLE
from magnet_cli.models.description import DESCRIPTION
from magnet_cli.train.backbone_training import train_backbone
from magnet_cli.train.config import TrainConfig
from magnet_cli.train.refiner_training import train_refiner

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WEIGHTS = Path(__file__).parents[2] / "weights"
REFINER_CONFIG = WEIGHTS / "refiner.toml"
TILES = ("tile1", "tile2", "tile3", "tile4", "tile6", "tile7")
HELD_OUT = ("tile4", "tile6", "tile7")
INNER = 1000
"""Iterations of a backbone without two scenes, which only makes the fields to which a refiner is fitted."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A way to train a backbone without one scene."""

    config: Path
    iterations: Mapping[str, int] = field(default_factory=dict)
    """Iterations by held-out scene, where they differ from the configuration's."""


RECIPES = {
    "aerial": Recipe(config=Path(__file__).with_name("scratch.toml"), iterations={"tile4": 2200, "tile6": 2200}),
    "curves": Recipe(config=Path(__file__).with_name("curves.toml")),
}


def named(out: tuple[str, ...]) -> str:
    """Return the name of the bundle without some scenes, such as `out47`."""
    return "out" + "".join(sorted(scene.removeprefix("tile") for scene in out))


def replaced(text: str, key: str, value: str) -> str:
    """Return a TOML text with the first line of a key changed."""
    found, count = re.subn(rf"^{key} = .*$", f"{key} = {value}", text, count=1, flags=re.MULTILINE)
    if not count:
        message = f"the configuration has no key {key}"
        raise ValueError(message)
    return found


def without(text: str, *keys: str) -> str:
    """Return a TOML text without the first line of each key."""
    for key in keys:
        text, count = re.subn(rf"^{key} = .*\n", "", text, count=1, flags=re.MULTILINE)
        if not count:
            message = f"the configuration has no key {key}"
            raise ValueError(message)
    return text


def backbone_config(out: tuple[str, ...], recipe: Recipe = RECIPES["aerial"]) -> TrainConfig:
    """Return the configuration of a recipe without some scenes."""
    text = recipe.config.read_text(encoding="utf-8")
    text = replaced(text, "scenes", str([tile for tile in TILES if tile not in out]).replace("'", '"'))
    iterations = INNER if len(out) > 1 else recipe.iterations.get(out[0])
    return TrainConfig.parse(text if iterations is None else replaced(text, "iterations", str(iterations)))


def refiner_config(scene: str, bundles: Path) -> TrainConfig:
    """Return the configuration weights/refiner.toml for a held-out scene.

    Args:
        scene: The scene that is held out. Where it is not tile 7, the refiner is fitted only to a part of tile 7.
        bundles: The folder of the backbones that were trained without two scenes.
    """
    inner = [other for other in HELD_OUT if other != scene]
    return fitted_to_fields(
        REFINER_CONFIG.read_text(encoding="utf-8"),
        scenes=[tile for tile in TILES if tile != scene],
        folds=[((other,), bundles / named((scene, other))) for other in inner],
    )


def fitted_to_fields(text: str, *, scenes: Sequence[str], folds: Sequence[tuple[Sequence[str], Path]]) -> TrainConfig:
    """Return a refiner's configuration whose fields come from backbones that are there already.

    Args:
        text: The configuration weights/refiner.toml, with or without changes.
        scenes: The scenes of the configuration. A part of tile 7 stands for the whole of it.
        folds: The scenes of each fold, and the folder of a bundle whose backbone was not trained on them.
    """
    part = {WHOLE: PART}
    held_out = [[part.get(scene, scene) for scene in fold] for fold, _ in folds]
    backbones = [str(folder.resolve()) for _, folder in folds]
    text = replaced(text, "scenes", str([part.get(scene, scene) for scene in scenes]).replace("'", '"'))
    # The backbones are there, so that what would concern their training has no effect and is refused.
    text = without(text.partition("[folds.loop]")[0], "jitter", "colour")
    if len(folds) == 1:
        text = without(text, "cross")
    written = f"{held_out}\nbackbones = {backbones}".replace("'", '"')
    return TrainConfig.parse(replaced(text, "held_out", written) + '[folds.loop]\ndevice = "cpu"\n')


def backbone(work: Path, out: tuple[str, ...], recipe: Recipe = RECIPES["aerial"]) -> Path:
    """Return the bundle of a backbone without some scenes. A missing bundle is trained."""
    folder = work / "bundles" / named(out)
    if not (folder / DESCRIPTION).exists():
        train_backbone(work / "dubai" / "scenes.csv", folder, backbone_config(out, recipe), progress=print)
    return folder


def main() -> None:
    """Train the bundles that are missing for the scenes that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("accuracy-work"))
    parser.add_argument("--scene", action="append", choices=HELD_OUT)
    parser.add_argument("--recipe", choices=RECIPES, default="aerial")
    args = parser.parse_args()
    for scene in args.scene or HELD_OUT:
        folder = backbone(args.work, (scene,), RECIPES[args.recipe])
        if args.recipe == "aerial":
            for other in HELD_OUT:
                if other != scene:
                    backbone(args.work, (scene, other))
            config = refiner_config(scene, args.work / "bundles")
            train_refiner(args.work / "dubai" / "scenes.csv", folder, config, progress=print)


if __name__ == "__main__":
    main()
