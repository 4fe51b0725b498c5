"""Selectors for bundles that have not seen a scene, fitted to scenes that backbones of their own had not seen either.

    python -m benchmarks.accuracy.selectors --work WORK --scene tile7

needs the backbones of `benchmarks.accuracy.curves` and writes WORK/bundles/out7-ppn-gain and out7-ppn-paper.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Literal, get_args

from benchmarks.accuracy.folds import CURVES, HELD_OUT, backbone, named, replaced
from benchmarks.accuracy.scenes import PART, WHOLE
from magnet_cli.models.bundle import load_bundle
from magnet_cli.train.config import TrainConfig
from magnet_cli.train.selector_training import train_selector

CONFIG = Path(__file__).with_name("selector.toml")

Labels = Literal["gain", "paper"]
LABELS: tuple[Labels, ...] = get_args(Labels)


def selector_config(scene: str, bundles: Path, labels: Labels) -> TrainConfig:
    """As selector.toml has it, with the two other held-out scenes; of tile 7 only a part is fitted to.

    Args:
        scene: That is held out.
        bundles: Where backbones are.
        labels: What is learnt; by the paper's rule a network that sees the image alone.
    """
    others = [other for other in HELD_OUT if other != scene]
    names = [PART if other == WHOLE else other for other in others]
    backbones = [str((bundles / named((scene, other))).resolve()) for other in others]
    text = CONFIG.read_text(encoding="utf-8")
    text = replaced(text, "scenes", listed(names))
    text = replaced(
        text, "held_out", f"[{', '.join(listed([name]) for name in names)}]\nbackbones = {listed(backbones)}"
    )
    if labels == "paper":
        text = replaced(replaced(text, "labels", '"paper"'), "options", "{ cells = 4 }")
    return TrainConfig.parse(text)


def listed(values: list[str]) -> str:
    """A list of texts in TOML."""
    return "[" + ", ".join(f'"{value}"' for value in values) + "]"


def selector(work: Path, scene: str, labels: Labels) -> Path:
    """The bundle for a held-out scene with a selector, trained where it is missing.

    The fields that selectors are fitted to are kept in WORK/selector-fields, for all of them.
    """
    plain = backbone(work, (scene,), CURVES)
    for other in HELD_OUT:
        if other != scene:
            backbone(work, (scene, other), CURVES)
    folder = plain.with_name(f"{plain.name}-ppn-{labels}")
    if not folder.exists():
        shutil.copytree(plain, folder)
    if load_bundle(str(folder)).selector is None:
        fields, mine = work.resolve() / "selector-fields", folder.with_name(f"{folder.name}.selector-training")
        fields.mkdir(exist_ok=True)
        mine.mkdir(exist_ok=True)
        if not (mine / "fields").exists():
            (mine / "fields").symlink_to(fields)
        train_selector(
            work / "dubai" / "scenes.csv", folder, selector_config(scene, work / "bundles", labels), progress=print
        )
    return folder


def main() -> None:
    """Train what is missing for the scenes that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("curves-work"))
    parser.add_argument("--scene", action="append", choices=HELD_OUT)
    parser.add_argument("--labels", action="append", choices=LABELS)
    args = parser.parse_args()
    for scene in args.scene or HELD_OUT:
        for labels in args.labels or LABELS:
            selector(args.work, scene, labels)


if __name__ == "__main__":
    main()
