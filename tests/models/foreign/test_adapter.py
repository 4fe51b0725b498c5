"""The adapter takes networks of many shapes, axes, types and outputs as the trial pass finds them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from magnet_cli.errors import UsageError, WeightsError
from magnet_cli.models.facts import memory_line
from magnet_cli.models.foreign.adapter import Adapted, activated_scores, select_output
from magnet_cli.models.foreign.foreign_bundle import TriedNetwork, tried_network
from magnet_cli.models.foreign.foreign_spec import ForeignSpec, PassMemory
from magnet_cli.models.foreign.kinds import KINDS
from magnet_cli.models.foreign.loading import frozen
from magnet_cli.options.foreign_network import NetworkOptions, parse_class_choices, spell_class_choices
from tests.models.foreign.makers import BANDS, SIDE, Strided, enlarged, save_script, save_smp, smp_network

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CLASSES = 3


def spec(**more: Any) -> ForeignSpec:
    usual: dict[str, Any] = {
        "kind": "torchscript", "files": {}, "channels": CLASSES, "classes": ((0,), (1,), (2,)), "activation": "softmax"
    }  # fmt: skip
    return ForeignSpec(**{**usual, **more})


def patches(height: int = SIDE, width: int = SIDE, *, count: int = 2) -> Tensor:
    return torch.randn(count, BANDS, height, width, generator=torch.Generator().manual_seed(1))


def adapted(network: Callable[[Tensor], object], **more: Any) -> Callable[[Tensor], Tensor]:
    return Adapted(network, spec=spec(**more))


def logits(x: Tensor) -> Tensor:
    return 3 * x.roll(1, dims=1)


def test_logits_are_enlarged_and_then_activated() -> None:
    network = Strided().eval()
    with torch.inference_mode():
        found = adapted(network)(patches())
        assert torch.equal(found, enlarged(network(patches()), patches()).softmax(dim=1))
        other = enlarged(network(patches()).softmax(dim=1), patches())
    assert not torch.allclose(found, other, atol=1e-2)


@pytest.mark.parametrize("stride", [1, 2, 4, 32])
def test_any_stride_down_to_a_32nd_gives_maps_of_the_patch(stride: int) -> None:
    found = adapted(lambda x: nn.functional.avg_pool2d(x, stride))(patches(SIDE, 2 * SIDE))
    assert found.shape == (2, CLASSES, SIDE, 2 * SIDE)
    assert torch.allclose(found.sum(dim=1), torch.ones(()), atol=1e-5)
    with pytest.raises(WeightsError, match="down to a 32th"):
        adapted(lambda x: nn.functional.avg_pool2d(x, 64))(patches(2 * SIDE, 2 * SIDE))


def test_patches_are_padded_to_a_multiple_and_the_result_is_cut_again() -> None:
    seen: list[tuple[int, ...]] = []

    def network(x: Tensor) -> Tensor:
        seen.append(tuple(x.shape))
        return logits(x)

    found = adapted(network, multiple=32)(patches(50, 70))
    assert seen == [(2, BANDS, 64, 96)]
    assert torch.equal(found, logits(patches(50, 70)).softmax(dim=1))


def test_a_stride_and_a_multiple_keep_places() -> None:
    # A ramp stays where it is: enlarging to the padded size and cutting is no stretching.
    ramp = torch.arange(52.0).expand(1, 1, 50, 52)

    def network(x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, 4)

    found = adapted(network, channels=1, classes=((0,), (1,)), activation="none", multiple=32)(ramp)
    assert float((found[0, 1, :, 4:44] - ramp[0, 0, :, 4:44]).abs().max()) < 1e-4


def test_axes_may_have_another_order() -> None:
    def network(x: Tensor) -> Tensor:
        assert x.shape[-1] == BANDS
        return logits(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    found = adapted(network, layout="nhwc", output_layout="nhwc")(patches())
    assert torch.equal(found, logits(patches()).softmax(dim=1))


def test_whole_numbers_are_handed_in_rounded() -> None:
    seen: list[Tensor] = []

    def network(x: Tensor) -> Tensor:
        seen.append(x)
        return x.float() / 255

    adapted(network, input_type="uint8")(torch.full((1, BANDS, 4, 4), 12.6))
    assert (seen[0].dtype, int(seen[0].max())) == (torch.uint8, 13)
    adapted(lambda x: logits(x.float()).half(), input_type="float16")(patches())


def test_one_score_is_that_of_the_second_of_two_classes() -> None:
    def network(x: Tensor) -> Tensor:
        return x[:, :1]

    found = adapted(network, channels=1, classes=((0,), (1,)), activation="sigmoid")(patches())
    assert torch.equal(found, torch.cat((1 - patches()[:, :1].sigmoid(), patches()[:, :1].sigmoid()), dim=1))


def test_scores_of_masks_are_divided_by_their_sum() -> None:
    found = activated_scores(torch.tensor([1.0, 2.0, 1.0, 0.0]).reshape(1, 4, 1, 1), "share")
    assert found.reshape(-1).tolist() == [0.25, 0.5, 0.25, 0.0]
    assert bool(torch.isfinite(activated_scores(torch.zeros(1, 3, 1, 1), "share")).all())


def test_channels_are_added_up_for_a_class() -> None:
    found = adapted(logits, classes=((1,), (0, 2)))(patches())
    probs = logits(patches()).softmax(dim=1)
    assert torch.equal(found, torch.stack((probs[:, 1], probs[:, 0] + probs[:, 2]), dim=1))


def test_pixels_that_no_channel_claims_have_a_class() -> None:
    scores = torch.stack((torch.tensor([0.9, -2.0, -1.0]), torch.tensor([0.8, 3.0, -0.1])))[None, :, None]
    network = adapted(lambda _: scores, channels=2, classes=((), (0,), (1,)), activation="sigmoid")
    found = network(torch.zeros(1, 3, 1, 3))
    assert found.argmax(dim=1).reshape(-1).tolist() == [1, 2, 0]
    assert torch.equal(found[:, 0], 1 - scores.sigmoid().amax(dim=1))


def test_independent_channels_are_joined_by_their_maximum() -> None:
    scores = torch.tensor([0.9, 0.8, 0.3]).logit().reshape(1, 3, 1, 1)
    network = adapted(lambda _: scores, channels=3, classes=((0, 1), (2,), ()), activation="sigmoid")
    found = network(torch.zeros(1, 3, 1, 1)).reshape(-1)
    assert found.tolist() == pytest.approx([0.9, 0.3, 0.1])


@pytest.mark.parametrize("count", [1, 3, 4, 5])
def test_a_fixed_batch_is_filled_and_the_filling_dropped(count: int) -> None:
    def network(x: Tensor) -> Tensor:
        assert len(x) == 4
        return logits(x)

    assert torch.equal(adapted(network, batch=4)(patches(count=count)), logits(patches(count=count)).softmax(dim=1))


def test_outputs_are_chosen_by_name_or_number() -> None:
    one, two = torch.zeros(1), torch.ones(1)
    assert select_output({"aux": one, "out": two}, "out") is two
    assert select_output((one, two), "1") is two
    assert select_output([two], "") is two
    with pytest.raises(WeightsError, match=r"several outputs \(got aux, out\)\. Give --output-name"):
        select_output({"aux": one, "out": two}, "")
    with pytest.raises(WeightsError, match="no output of this name"):
        select_output({"aux": one}, "out")


class Valid(nn.Module):
    """A network of convolutions without padding, which scores only the centre of the patch."""

    def __init__(self, trim: int) -> None:
        super().__init__()
        self.trim = trim

    def forward(self, x: Tensor) -> Tensor:
        part = 3 * x.roll(1, dims=1)
        return part[:, :, self.trim : x.shape[2] - self.trim, self.trim : x.shape[3] - self.trim]


def script_tried(folder: Path, network: nn.Module, *, side: int = SIDE, **more: Any) -> TriedNetwork:
    path = save_script(folder / "network.pt", network)
    usual: dict[str, Any] = {"input": side, "mean": "imagenet", "std": "imagenet", "trust": True}
    return tried_network(NetworkOptions(network=str(path), **{**usual, **more}))


@pytest.mark.parametrize("trim", [4, 16])
def test_the_trial_tells_missing_rims_from_strides(tmp_path: Path, trim: int) -> None:
    # With 16 of 64 pixels missing on each side the scores have half of the patch's sides, as at a stride of two.
    valid = script_tried(tmp_path, Valid(trim))
    assert valid.spec.trim == trim
    side = SIDE - 2 * trim
    assert valid.table(name="x")["input"]["size"] == {"width": side, "height": side}
    assert valid.table(name="x")["magnet"]["margin"] >= trim
    found = adapted(Valid(trim), trim=trim)(patches(side, side))
    assert torch.equal(found, logits(patches(side, side)).softmax(dim=1))
    stated = script_tried(tmp_path, Valid(trim), trim=trim)
    assert stated.spec == valid.spec
    with pytest.raises(WeightsError, match="Check --trim"):
        script_tried(tmp_path, Valid(trim), trim=trim + 1)


def test_the_trial_tells_strides_from_missing_rims(tmp_path: Path) -> None:
    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 3 * nn.functional.avg_pool2d(x, 2).roll(1, dims=1)

    assert script_tried(tmp_path, Half()).spec.trim == 0


class Floor(nn.Module):
    """A network that works at a stride and drops the last rows and columns which the stride does not divide."""

    def __init__(self, stride: int, *, enlarged: bool) -> None:
        super().__init__()
        self.stride = stride
        self.enlarged = enlarged

    def forward(self, x: Tensor) -> Tensor:
        found = 3 * nn.functional.avg_pool2d(x, self.stride).roll(1, dims=1)
        if self.enlarged:
            found = nn.functional.interpolate(found, scale_factor=float(self.stride), mode="nearest")
        return found


@pytest.mark.parametrize(("stride", "side"), [(32, 100), (8, 60), (16, 190)])
@pytest.mark.parametrize("enlarged", [True, False])
def test_the_trial_finds_the_multiple_of_a_network_that_drops_the_last_pixels(
    tmp_path: Path, stride: int, side: int, *, enlarged: bool
) -> None:
    # Scores of 96 of 100 pixels look like those of a network without padding, which would move the mask by 2 pixels.
    tried = script_tried(tmp_path, Floor(stride, enlarged=enlarged), side=side)
    assert (tried.spec.trim, tried.spec.multiple) == (0, stride)
    assert tried.table(name="x")["input"]["size"] == {"width": side, "height": side}
    stated = script_tried(tmp_path, Floor(stride, enlarged=enlarged), side=side, multiple=stride)
    assert stated.spec == tried.spec


def test_the_trial_finds_the_multiple_of_a_network_that_refuses_other_sizes(tmp_path: Path) -> None:
    class Joined(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 3 * x.roll(1, dims=1) + nn.functional.interpolate(nn.functional.max_pool2d(x, 16), scale_factor=16.0)

    tried = script_tried(tmp_path, Joined(), side=100)
    assert (tried.spec.trim, tried.spec.multiple) == (0, 16)
    with pytest.raises(WeightsError, match=r"refuses a patch .* Check --input"):
        script_tried(tmp_path, Joined(), side=100, multiple=1)


def test_scores_of_the_first_rows_and_columns_alone_are_refused(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 3 * x.reshape(-1, 3, 100, 100)[:, :, :96, :96].roll(1, dims=1)

    with pytest.raises(WeightsError, match="belong to the first rows and columns"):
        script_tried(tmp_path, Fixed(), side=100)


def test_the_trial_finds_axes_and_fixed_batches(tmp_path: Path) -> None:
    class Last(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 3 * x.permute(0, 2, 3, 1)

    class Four(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 3 * x.reshape(4, 3, 64, 64)

    assert script_tried(tmp_path, Last()).spec.output_layout == "nhwc"
    assert script_tried(tmp_path, Four()).spec.batch == 4


@pytest.mark.parametrize(("freeze", "taken"), [(False, "float32"), (True, "float16")])
def test_weights_in_half_precision_run(tmp_path: Path, *, freeze: bool, taken: str) -> None:
    path = save_script(tmp_path / "half.pt", Strided().half(), freeze=freeze)
    tried = tried_network(NetworkOptions(network=str(path), input=SIDE, mean="imagenet", std="imagenet", trust=True))
    assert tried.spec.input_type == taken


def test_the_order_of_bands_is_that_of_the_description(tmp_path: Path) -> None:
    options: dict[str, Any] = {"mean": (0.1, 0.2, 0.3), "std": (1, 1, 1), "network_bands": "blue,green,red"}
    tried = script_tried(tmp_path, Strided(), **options)
    assert tried.table(name="x")["input"]["bands"] == ["blue", "green", "red"]
    flipped = script_tried(tmp_path, Strided(), network_bands="blue,green,red")
    assert flipped.table(name="x")["input"]["mean"] == [0.406, 0.456, 0.485]


def test_stored_values_go_through_unchanged(tmp_path: Path) -> None:
    tried = script_tried(tmp_path, Strided(), mean=None, std=None, values="stored", network_bands="red,green,blue")
    given = tried.table(name="x")["input"]
    for value in (0.0, 7.0, 255.0):
        taken = [(value / 255 - mean) / std for mean, std in zip(given["mean"], given["std"], strict=True)]
        assert taken == pytest.approx([value] * 3)
    with pytest.raises(UsageError, match="--values stored"):
        NetworkOptions(network="x", values="stored", mean="imagenet")


SMP = ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus", "UPerNet",
       "Segformer", "DPT")  # fmt: skip


@pytest.mark.full
@pytest.mark.parametrize("architecture", SMP)
def test_every_architecture_of_smp_gives_what_the_library_gives(architecture: str, tmp_path: Path) -> None:
    side = {"PAN": 256, "DPT": 160}.get(architecture, SIDE)
    network = smp_network(architecture)
    path = save_smp(tmp_path / "network", network)
    tried = tried_network(NetworkOptions(network=str(path), input=side, mean="imagenet", std="imagenet"))
    loaded = frozen(KINDS["smp"].load(path, tried.spec, "torch"))
    with torch.inference_mode():
        found, wanted = (
            Adapted(loaded, spec=tried.spec)(patches(side, side)),
            network(patches(side, side)).softmax(dim=1),
        )
    assert float((found - wanted).abs().max()) < 1e-5


def test_a_network_of_smp_may_end_with_its_activation_and_have_a_second_head(tmp_path: Path) -> None:
    network = smp_network(classes=1, activation="sigmoid", aux_params={"classes": 2})
    path = save_smp(tmp_path / "network", network)
    tried = tried_network(NetworkOptions(network=str(path), input=SIDE, mean="imagenet", std="imagenet"))
    assert (tried.spec.activation, tried.spec.channels, len(tried.classes)) == ("none", 1, 2)
    loaded = frozen(KINDS["smp"].load(path, tried.spec, "torch"))
    with torch.inference_mode():
        found, wanted = Adapted(loaded, spec=tried.spec)(patches()), network(patches())[0]
    assert float((found[:, 1:] - wanted).abs().max()) < 1e-5


def test_classes_are_kept_renamed_and_added_up() -> None:
    assert parse_class_choices("4", "--classes") == 4
    found = parse_class_choices("wall=0,building=1+25,other=rest", "--classes")
    assert not isinstance(found, int)
    assert [(each.name, each.channels) for each in found] == [("wall", (0,)), ("building", (1, 25)), ("other", ())]
    found = parse_class_choices("a=0,b=1,ground=none", "--classes")
    assert not isinstance(found, int)
    assert [(each.channels, each.unclaimed) for each in found] == [((0,), False), ((1,), False), ((), True)]
    assert spell_class_choices(found) == "a=0,b=1,ground=none"
    for wrong in ("a,b=1", "a,a", "a=x,b=1", "a=rest,b=rest", "a=none,b=none", ",a"):
        with pytest.raises(UsageError, match="--classes is a number of classes"):
            parse_class_choices(wrong, "--classes")


def test_planned_memory_covers_every_batch_that_was_measured() -> None:
    measured = [PassMemory(batch=batch, bytes=size) for batch, size in ((1, 265), (2, 347), (4, 663))]
    patch, fixed = memory_line(measured)
    assert (patch, fixed) == (158, 107)
    assert all(fixed + patch * each.batch >= each.bytes for each in measured)
    assert memory_line([]) == (0, 0)
    assert memory_line(measured[:1]) == (265, 0)
