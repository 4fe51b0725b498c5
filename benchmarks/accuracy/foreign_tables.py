"""The tables of docs/networks.md on networks of other libraries: compared with MONAI, and at coarser scales."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.accuracy.cells import markdown, mba, miou, number, row_cells

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.accuracy.cells import Cell

TABLE = "scales"
"""Name of the file of results."""
OWN, MONAI = "own", "monai"
NETWORK_ROWS: dict[str, dict[str, Any]] = {
    OWN: {},
    MONAI: {},
    "two-mean": {"scales": "256,512", "merge": "mean"},
    "two-certainty": {"scales": "256,512", "merge": "certainty"},
    "three-mean": {"scales": "256,512,1024", "merge": "mean"},
    "three-certainty": {"scales": "256,512,1024", "merge": "certainty"},
}
"""Arguments of `SegmentOptions` by row. The row `monai` is measured without this program."""
ROW_LABELS = {
    OWN: "its own scale, 256",
    "two-mean": "256, 512, `mean`",
    "two-certainty": "256, 512, `certainty`",
    "three-mean": "256, 512, 1024, `mean`",
    "three-certainty": "256, 512, 1024, `certainty`",
}
ONNX = "lite0-onnx"
NETWORK_LABELS = {
    "smp-fpn": "FPN of segmentation-models-pytorch, encoder from ImageNet",
    "smp-unet": "U-Net of segmentation-models-pytorch, encoder from ImageNet",
    "smp-deeplab": "DeepLabV3+ of segmentation-models-pytorch, encoder from ImageNet, windows enlarged by 0.5 to 2",
    "segformer": "SegFormer-B0 of transformers, from scratch",
    "lraspp": "LR-ASPP of torchvision, from scratch",
    ONNX: "the recipe of `aerial` as ONNX, trained at 256 to 2048",
}
BESIDE_MONAI = {"smp-fpn": "300 iterations", "smp-fpn-long": "850 iterations"}
"""Networks that are compared with MONAI on whole scenes, with the length of their training."""
WHOLE_SCENES = ("tile5", "tile7")
SCALE_SCENES = ("tile5", "tile7-part")
"""Scenes on which scales are compared. The second is a quarter of tile 7 with houses, roads, gardens and sand."""
FOREIGN_SCENES = ("tile5", "tile7-part", "tile7")


def foreign_row(network: str, row: str) -> str:
    """Return the name of a row, such as `smp-fpn-two-mean`."""
    return f"{network}-{row}"


def monai_table() -> str:
    """Compare each network in this program with MONAI's sliding window, with the same windows and overlap."""
    lines = []
    for network, length in BESIDE_MONAI.items():
        for row, label in ((OWN, "`magnet segment --weights BUNDLE`"), (MONAI, "MONAI's `SlidingWindowInferer`")):
            cells = row_cells(TABLE, foreign_row(network, row), WHOLE_SCENES)
            if cells is not None:
                scores = [number(miou(cells), 2), *(number(miou([cell]), 2) for cell in cells), number(mba(cells), 2)]
                lines.append([f"{length}: {label}", *scores, str(sum(cell.windows or 0 for cell in cells))])
    return markdown(["", "mIoU pooled", *WHOLE_SCENES, "mBA", "windows"], lines)


def scales_table() -> str:
    """Compare each network at its own scale with coarser ones, by scores and costs."""
    lines = []
    for network, label in NETWORK_LABELS.items():
        own = row_cells(TABLE, foreign_row(network, OWN), SCALE_SCENES)
        if own is None:
            continue
        lines.append([f"**{label}**", *[""] * (len(SCALE_SCENES) + 5)])
        for row, text in ROW_LABELS.items():
            cells = row_cells(TABLE, foreign_row(network, row), SCALE_SCENES)
            if cells is not None:
                lines.append([text, *_line(cells, own)])
    return markdown(["", "mIoU pooled", "more than its own", *SCALE_SCENES, "mBA", "windows", "GMAC / Mpx"], lines)


def _line(cells: list[Cell], own: list[Cell]) -> list[str]:
    pixels = sum(cell.megapixels or 0 for cell in cells)
    return [
        number(miou(cells)),
        "" if cells == own else f"{miou(cells) - miou(own):+.1f}",
        *(number(miou([cell])) for cell in cells),
        number(mba(cells)),
        str(sum(cell.windows or 0 for cell in cells)),
        number(sum(cell.gmac or 0 for cell in cells) / pixels),
    ]


FOREIGN_TABLES: dict[str, Callable[[], str]] = {"monai": monai_table, "network-scales": scales_table}
