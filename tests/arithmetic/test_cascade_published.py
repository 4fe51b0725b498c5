"""The published package's arithmetic keeps its rules one by one, and gives its values for seeded weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from magnet_cli.arithmetic.cascade.pyramid import local_windows
from magnet_cli.arithmetic.cascade.steps import CascadeSettings, refine_region
from magnet_cli.arithmetic.published import cascade_steps as cascade_published
from magnet_cli.arithmetic.published.cascade_steps import published_bytes, published_mask
from magnet_cli.arithmetic.published.stages import IMAGENET_MEAN, IMAGENET_STD
from magnet_cli.geometry import Box
from magnet_cli.models.bundle_writer import describe_cascade, write_cascade_bundle
from magnet_cli.models.cascade_networks import LoadedCascade, load_cascade
from tests.arithmetic.cascades import Brightness, Echo, Fixed
from tests.models.support import seeded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from magnet_cli.arithmetic.cascade.pyramid import CascadeWindow
    from magnet_cli.geometry import Size

pytestmark = pytest.mark.full

GOLDEN = Path(__file__).parents[3] / "shared" / "reference" / "cascadepsp"
PART = Box(x=0, y=0, width=90, height=60)
MANIFEST = "cascadepsp_refinement_module.txt"


class Steps(Fixed):
    """A cascade that returns the mask in the global step, and numbers of its own in the local ones."""

    def answer(self, images: Tensor, masks: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        if not self.close:
            return (coarse + 1) / 2, (masks + 1) / 2
        self.wide.clear()
        return super().answer(images, masks, coarse)


def run(
    mask: Tensor, network: Echo, *, image: Tensor | None = None, side: int = 72, fast: bool = False
) -> NDArray[np.float32]:
    pixels = torch.ones(3, *mask.shape) if image is None else image
    settings = CascadeSettings(side=side, fast=fast, published=True)
    return refine_region(pixels, mask, network, settings).numpy()


def half(height: int, width: int) -> Tensor:
    """Return a mask whose left half is the object."""
    mask = torch.zeros(height, width)
    mask[:, : width // 2] = 1
    return mask


def test_a_mask_of_0_and_1_is_empty() -> None:
    assert published_mask(np.array([0, 1, 127, 128, 255], np.uint8)).tolist() == [False, False, False, True, True]


def test_bytes_lose_their_fraction() -> None:
    assert published_bytes(torch.tensor([[0.0, 0.0039, 0.9999, 1.0]])).tolist() == [[0, 0, 254, 255]]


def test_an_aligned_side_grows_by_a_whole_eight_beside_one_that_is_not() -> None:
    network = Echo()
    run(half(72, 72), network)
    run(half(70, 72), network)
    run(half(72, 70), network)
    shapes = [tuple(images.shape[2:]) for images, _ in network.wide]
    assert shapes == [(72, 72), (72, 80), (80, 72)]
    images, masks = network.wide[1]
    assert bool((images[..., 72:] == 0).all())
    assert bool((masks[..., 72:] == -1).all())


def test_a_small_image_is_enlarged_to_l_for_the_global_step_and_sharpened_at_its_own_size() -> None:
    network = Echo()
    run(half(36, 20), network)
    assert [tuple(images.shape[2:]) for images, _ in network.wide] == [(72, 40)]
    assert [tuple(images.shape[2:]) for images, *_ in network.close] == [(40, 24)]


def test_the_local_step_takes_the_global_result_cut_at_one_half_and_the_coarse_one_whole() -> None:
    network = Echo()
    run(half(100, 200), network)
    masks = torch.cat([masks[..., :72, :72].flatten() for _, masks, _ in network.close])
    coarse = torch.cat([coarse[..., :72, :72].flatten() for _, _, coarse in network.close])
    assert set(masks.tolist()) == {-1, 1}
    assert len(set(coarse.tolist())) > 2


def test_there_is_one_local_step_at_full_size_however_large() -> None:
    network = Brightness()
    image = torch.full((3, 80, 300), 0.4)
    image[:, :, 150:] = 0.6
    run(half(80, 300), network, image=image)
    assert {tuple(images.shape[2:]) for images, *_ in network.close} == {(72, 72)}


def test_windows_less_than_a_tenth_or_more_than_nine_tenths_full_keep_the_hard_global_result() -> None:
    mask = torch.zeros(72, 300)
    mask[:, :7] = 1
    network = Echo()
    found = run(mask, network)
    assert network.close == []
    assert set(np.unique(found).tolist()) == {0, 1}
    mask[:, :65] = 1
    run(mask, network)
    assert network.close != []
    assert all(0.1 <= float((masks[..., :72, :72] > 0).float().mean()) <= 0.9 for _, masks, _ in network.close)


def test_the_fast_result_is_enlarged_with_its_corners_aligned() -> None:
    image = torch.zeros(3, 72, 144)
    image[:] = torch.linspace(0, 1, 144)
    small = run(half(72, 144), Brightness(), image=image, fast=True)
    columns = torch.nn.functional.interpolate(image[None, :1], scale_factor=0.5, mode="area")
    expected = torch.nn.functional.interpolate(columns, (72, 144), mode="bilinear", align_corners=True)
    np.testing.assert_allclose(small, expected[0, 0].numpy(), atol=1e-6)


def test_an_unchanged_size_comes_back_unchanged() -> None:
    mask = half(72, 72)
    assert np.array_equal(run(mask, Echo(), fast=True), mask.numpy())


def test_windows_are_averaged() -> None:
    found = run(half(72, 80), Steps(values=[0.2, 0.4, 0.9]))
    # Kept columns: 0 to 56, 20 to 60, 24 to 80.
    assert found[0, [0, 22, 40, 58, 70]] == pytest.approx([0.2, 0.3, 0.5, 0.65, 0.9])


@pytest.fixture(scope="module")
def golden() -> Mapping[str, NDArray[np.float32]]:
    if not GOLDEN.is_dir():
        pytest.skip("the golden values are not beside the repository")
    with np.load(GOLDEN / "expected.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def loaded(golden: Mapping[str, NDArray[np.float32]], tmp_path_factory: pytest.TempPathFactory) -> LoadedCascade:
    """Return a module that was written into a bundle of the published arithmetic, read, and prepared for inference."""
    del golden
    seed = json.loads((GOLDEN / "config.json").read_text())["seed"]
    state = {**seeded(MANIFEST, seed=seed), **load_file(GOLDEN / "overrides.safetensors")}
    description = describe_cascade(
        network={"architecture": "cascadepsp-resnet50"},
        input={"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)},
        compat="published",
    )
    bundle = write_cascade_bundle(tmp_path_factory.mktemp("golden"), description, state, dtype=torch.float32)
    return load_cascade(bundle, device="cpu", precision="float32")


def close(found: Tensor, expected: NDArray[np.float32], *, atol: float = 1e-4) -> None:
    np.testing.assert_allclose(found.detach()[0, 0].numpy(), expected, atol=atol, rtol=1e-4)


def test_three_passes_and_two_give_the_published_numbers(
    loaded: LoadedCascade, golden: Mapping[str, NDArray[np.float32]]
) -> None:
    """The two passes get the mask and, as the coarse one, the third pass's output of stride 8."""
    image, mask = torch.from_numpy(golden["rm_in_image"]), torch.from_numpy(golden["rm_in_seg"])
    with torch.inference_mode():
        found = loaded.network(image, mask)
        later = loaded.network.two_passes(image, mask, found.s8[2].sigmoid() * 2 - 1)
    close(found.s8[0], golden["rm3_out_28"])
    close(found.s8[0].sigmoid(), golden["rm3_pred_28"])
    close(found.s4[0].sigmoid(), golden["rm3_pred_56"])
    close(found.s4[1], golden["rm3_out_56_2"])
    close(found.s1, golden["rm3_out_224"])
    close(found.s1.sigmoid(), golden["rm3_pred_224"])
    close(later.s4[0].sigmoid(), golden["rm2_pred_56"])
    close(later.s1, golden["rm2_out_224"])
    close(later.s1.sigmoid(), golden["rm2_pred_224"])


@pytest.fixture(scope="module")
def photograph(loaded: LoadedCascade) -> tuple[Tensor, Tensor]:
    """Return the image, normalised, and the mask."""
    image, mask = (imagecodecs.imread(GOLDEN / f"{part}.png") for part in ("image", "mask"))
    return loaded.normalised(image), torch.from_numpy(published_mask(mask).astype(np.float32))


def agree(found: Tensor, expected: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)
    bytes_expected = (expected * 255).astype(np.uint8).astype(int)
    assert np.abs(published_bytes(found).astype(int) - bytes_expected).max() <= 1


def test_the_fast_mode_comes_out_as_published(
    loaded: LoadedCascade, golden: Mapping[str, NDArray[np.float32]], photograph: tuple[Tensor, Tensor]
) -> None:
    settings = CascadeSettings(side=144, fast=True, published=True)
    agree(refine_region(*photograph, loaded, settings), golden["single_L144"])


def test_both_steps_come_out_as_published(
    monkeypatch: pytest.MonkeyPatch,
    loaded: LoadedCascade,
    golden: Mapping[str, NDArray[np.float32]],
    photograph: tuple[Tensor, Tensor],
) -> None:
    """Only a part of the image is compared, with its border, seams and skipped windows: all of it takes minutes."""

    def there(size: Size, *, side: int) -> Iterator[CascadeWindow]:
        return (window for window in local_windows(size, side=side) if window.kept.intersection(PART).area)

    monkeypatch.setattr(cascade_published, "local_windows", there)
    found = refine_region(*photograph, loaded, CascadeSettings(side=144, published=True))
    agree(found[PART.slices], golden["high_L144"][PART.slices])
