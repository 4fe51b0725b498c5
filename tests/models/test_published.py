"""The published networks have their parameter names, shapes and counts, and give their numbers."""

from __future__ import annotations

import cv2
import imagecodecs
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from magnet_cli.models.architectures.fpn import fpn_resnet50
from magnet_cli.models.architectures.refiner import RefinementMagNet
from tests.models.support import REFERENCE, manifest, parameters, seeded, shapes


def test_fpn_has_the_published_keys() -> None:
    assert shapes(fpn_resnet50(classes=7)) == manifest("magnet_fpn_c7.txt")


@pytest.mark.parametrize(
    ("name", "classes", "bn0"),
    [
        ("magnet_refinement_c7.txt", 7, True),
        ("magnet_refinement_c7_nobn0.txt", 7, False),
        ("magnet_refinement_c4.txt", 4, True),
        ("magnet_refinement_c19.txt", 19, True),
    ],
)
def test_refiner_has_the_published_keys(name: str, classes: int, *, bn0: bool) -> None:
    assert shapes(RefinementMagNet(classes=classes, bn0=bn0)) == manifest(name)


def test_parameter_counts() -> None:
    assert parameters(fpn_resnet50(classes=7)) == 28_064_839
    assert parameters(RefinementMagNet(classes=7)) == 88_092
    assert parameters(RefinementMagNet(classes=19)) == 103_500


def test_fpn_gives_the_published_numbers() -> None:
    state = seeded("magnet_fpn_c7.txt")
    case = REFERENCE / "magnet-fpn7"
    state.update(load_file(case / "backbone-overrides.safetensors"))
    network = fpn_resnet50(classes=7).eval()
    network.load_state_dict(state)
    image = imagecodecs.imread(case / "image.png")
    patch = cv2.resize(cv2.resize(image, (153, 153)), (128, 128)) / 255
    normal = (patch - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    with torch.inference_mode():
        probs = network(torch.from_numpy(normal.transpose(2, 0, 1)[None]).float()).softmax(dim=1)[0].numpy()
    expected = np.load(case / "expected.npz")["stage1"].astype(np.float32)
    assert (np.abs(probs - expected).max(axis=0) < 2e-3).mean() >= 0.9995
    assert (probs.argmax(axis=0) == expected.argmax(axis=0)).mean() >= 0.9995
