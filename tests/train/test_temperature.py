"""The temperature that made the labels is found, and a bundle applies the fitted one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from magnet_cli.errors import SourceError
from magnet_cli.geometry import Size
from magnet_cli.models.bundle_writer import describe, write_bundle
from magnet_cli.models.networks import load_networks
from magnet_cli.models.registry import build_backbone, build_refiner
from magnet_cli.train import canvases, temperature
from magnet_cli.train.canvases import HeldField, HeldTruth
from magnet_cli.train.temperature import (
    HIGHEST,
    LOWEST,
    Fit,
    fit_temperature,
    labelled_pixels,
    likelihood,
    tempered,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.full


def spoken(true: float, *, count: int = 100_000, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits that are right after division by `true`, and labels drawn from the right probabilities."""
    generator = torch.Generator().manual_seed(7)
    right = 2 * torch.randn(count, classes, generator=generator)
    labels = right.softmax(dim=1).multinomial(1, generator=generator)[:, 0]
    return right * true, labels


@pytest.mark.parametrize("true", [0.5, 1.0, 1.7, 3.0])
def test_the_temperature_that_made_the_labels_is_found(true: float) -> None:
    logits, labels = spoken(true)
    fit = fit_temperature(logits, labels)
    assert fit.temperature == pytest.approx(true, rel=0.02)
    assert fit.after <= fit.before
    assert fit.after <= min(likelihood(logits, labels, fit.temperature * factor) for factor in (0.95, 1.05))
    assert fit.pixels == len(labels)


def test_log_probabilities_in_half_precision_serve_as_well_as_logits() -> None:
    logits, labels = spoken(3.0)
    logs = (4 * logits).log_softmax(dim=1).half()
    assert float(logs.float().exp().min()) < 2**-26, "float16 probabilities would be 0 here"
    assert fit_temperature(logs, labels).temperature == pytest.approx(
        fit_temperature(4 * logits, labels).temperature, 1e-2
    )


def test_a_temperature_stays_between_its_bounds() -> None:
    logits, labels = spoken(1.0, count=1000)
    assert fit_temperature(100 * logits, labels).temperature == pytest.approx(HIGHEST)
    assert fit_temperature(logits / 100, labels).temperature == pytest.approx(LOWEST)


def test_without_labels_there_is_nothing_to_fit() -> None:
    with pytest.raises(SourceError, match="labelled pixels"):
        fit_temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))


def test_a_fit_describes_itself() -> None:
    fit = Fit(temperature=1.25, before=0.51234567, after=0.5, pixels=9)
    assert fit.describe() == {"temperature": 1.25, "nll": 0.51235, "nll_tempered": 0.5, "pixels": 9}


def test_a_fit_says_where_it_hit_a_bound_and_nothing_of_what_is_not_applied() -> None:
    fit = Fit(temperature=HIGHEST, before=0.5, after=0.4, pixels=9)
    assert fit.describe()["at_bound"] is True
    assert fit.describe(applied=False) == {"nll": 0.5, "pixels": 9}


def test_a_temperature_divides_logits() -> None:
    logs = torch.randn(3, 8, 5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(tempered(logs, 2.0), (logs / 2).softmax(dim=0))


def test_labelled_pixels_keep_their_labels_and_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temperature, "MOST_PIXELS", 500)
    rng = np.random.default_rng(0)
    labels = [rng.choice(np.array([0, 1, 255], np.uint8), shape) for shape in ((40, 30), (20, 60))]
    fields = [HeldField(torch.from_numpy(np.stack([one == 0, one == 1])).half()) for one in labels]
    truths = [HeldTruth(one) for one in labels]
    logs, truth = labelled_pixels(fields, truths, ignore=255)
    assert torch.equal(logs.argmax(dim=1), truth)
    assert 490 <= len(truth) <= 510
    monkeypatch.setattr(canvases, "STRIP_BYTES", 1000)
    again = labelled_pixels(fields, truths, ignore=255)
    assert torch.equal(again[0], logs), "strips change nothing"
    assert torch.equal(again[1], truth)


def test_a_bundle_speaks_at_its_scales_temperatures(tmp_path: Path) -> None:
    backbone = build_backbone("conv", classes=3, bands=3, options={}).eval()
    refiner = build_refiner("conv", classes=3, options={}).eval()
    description = describe(
        classes=3,
        size=8,
        scales=(8, 16),
        backbone={"temperature": {"8x8": 0.5, "16x16": 2.5}},
        refiners=[{"temperature": {"8x8": 1.5}}],
    )
    files = {"backbone.safetensors": backbone, "refiner.safetensors": refiner}
    networks = load_networks(
        write_bundle(tmp_path, description, files, dtype=torch.float32), device="cpu", precision="float32"
    )
    patch = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        logits = backbone(patch)
    for side, heat in ((8, 0.5), (16, 2.5)):
        scale = Size(width=side, height=side)
        torch.testing.assert_close(networks.predict(patch, scale), (logits / heat).softmax(dim=1))
    own, field = torch.rand(2, 1, 3, 8, 8, generator=torch.Generator().manual_seed(3)).softmax(dim=2)
    with torch.no_grad():
        said = refiner(torch.cat((own, field), dim=1))
    torch.testing.assert_close(networks.refine(own, field, Size(width=8, height=8)), (said / 1.5).softmax(dim=1))
