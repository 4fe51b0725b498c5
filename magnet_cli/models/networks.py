"""A bundle's networks on a device: patches to probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, nn

from magnet_cli.errors import DeviceError, WeightsError
from magnet_cli.models.architectures.strips import InStrips, Reaches
from magnet_cli.models.folding import fused
from magnet_cli.models.registry import build_backbone, build_local, build_refiner, build_selector
from magnet_cli.models.weights_file import filled

if TYPE_CHECKING:
    from collections.abc import Callable

    from magnet_cli.geometry import Size
    from magnet_cli.models.architectures.grnet import LocalBranch
    from magnet_cli.models.architectures.ppn import PatchProposalNetwork
    from magnet_cli.models.architectures.resnet import ResNet
    from magnet_cli.models.bundle import Bundle, NetworkSpec

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


Built = TypeVar("Built", bound=nn.Module)


@dataclass(frozen=True, kw_only=True, eq=False)
class Networks:
    """Networks ready to run. Results do not depend on what ran before."""

    bundle: Bundle
    backbone: nn.Module
    refiners: tuple[nn.Module, ...]
    device: torch.device
    precision: str
    selector: PatchProposalNetwork | None = None
    local: LocalBranch | None = None
    """The refinement branch and aggregation layer of a GRNet; None for other bundles."""

    @property
    def has_refiner(self) -> bool:
        """Whether `refine` can be called."""
        return bool(self.refiners)

    @torch.inference_mode()
    def predict(self, patches: Tensor, scale: Size) -> Tensor:
        """Return the probabilities of patches.

        Args:
            patches: `(n, bands, h, w)`, normalised, float32, on the device.
            scale: Side lengths of the windows that they show, in working-grid pixels.

        Returns:
            `(n, classes, h, w)` float32.

        Raises:
            WeightsError: The patches have another number of bands than the bundle, or the network gives another shape.
        """
        bands = self.bundle.input.bands
        if patches.shape[1] != len(bands):
            raise WeightsError(
                f"the bundle takes {len(bands)} bands: {', '.join(bands)}",
                value=patches.shape[1],
                advice="Choose the bands with --bands",
            )
        logits = self.forward(self.backbone, patches) / self.bundle.backbone.temperature.at(scale)
        expected = (patches.shape[0], self.bundle.logits, *patches.shape[2:])
        if logits.shape != expected:
            raise WeightsError(
                f"the backbone must give logits {expected}",
                value=tuple(logits.shape),
                advice="Correct the classes or the activation in bundle.json, or the network",
            )
        return activated(logits, activation=self.bundle.activation)

    @torch.inference_mode()
    def refine(self, own: Tensor, field: Tensor, scale: Size) -> Tensor:
        """Merge a stage's own probabilities with the field below it.

        Args:
            own: O, `(n, classes, h, w)` float32.
            field: Y', the same.
            scale: Side lengths of the stage's windows; the refiner nearest in ratio is taken.

        Returns:
            R, `(n, classes, h, w)` float32, softmaxed.

        Raises:
            WeightsError: The bundle has no refiner.
        """
        index = self.bundle.refiner_for(scale)
        if index is None:
            raise WeightsError("the bundle has no refiner", value=self.bundle.name, advice="Choose another --merge.")
        spec = self.bundle.refiners[index]
        pair = (own, field) if spec.input == "own-first" else (field, own)
        logits = self.forward(self.refiners[index], torch.cat(pair, dim=1)) / spec.temperature.at(scale)
        return logits.softmax(dim=1)

    @torch.inference_mode()
    def scores(self, patches: Tensor) -> Tensor:
        """Return F^G of a GRNet: logits `(n, classes, h, w)` float32 of patches as `predict` takes them."""
        return self.forward(self.backbone, patches)

    @torch.inference_mode()
    def selected(self, patches: Tensor) -> Tensor:
        """Return the logits of a GRNet's cells, `(n, cells * cells)` float32, of patches as `predict` takes them."""
        return self.forward(self._selector, patches)

    @torch.inference_mode()
    def score_map(self, patches: Tensor, field: Tensor | None = None) -> Tensor:
        """Return the selector's scores of places; the cells with the lowest are refined (`PatchProposalNetwork`).

        Args:
            patches: The patches, as `predict` takes them.
            field: The probabilities of the stage before, `(n, classes, h, w)`; needed where `selector.sees_field`.

        Returns:
            `(n, h', w')` float32, with fewer pixels than the patches.
        """
        with self._precisely():
            scores = self._selector.score_map(patches.contiguous(memory_format=torch.channels_last), field)
        return scores.contiguous()

    @torch.inference_mode()
    def cell_scores(self, patches: Tensor, probs: Tensor | None) -> Tensor:
        """Return F^R of a GRNet: logits `(n, classes, h, w)` float32 of cells.

        Args:
            patches: The patches, as `predict` takes them.
            probs: The global branch's probabilities, `(n, classes, h, w)` float32; None where it did not run.
        """
        with self._precisely():
            logits = self._local(patches.contiguous(memory_format=torch.channels_last), probs)
        return cast("Tensor", logits.float().contiguous())

    @torch.inference_mode()
    def aggregate(self, refined: Tensor, scores: Tensor) -> Tensor:
        """Map F^E and F^G of a GRNet, `(n, classes, h, w)` float32 each, to fused logits of the same shape."""
        with self._precisely():
            logits = self._local.aggregate(refined, scores)
        return logits.float().contiguous()

    @property
    def fusion(self) -> str:
        """The fusion of a GRNet: `literal` or `detail`."""
        return self._local.fusion

    @property
    def _selector(self) -> PatchProposalNetwork:
        if self.selector is None:
            raise WeightsError(
                "the bundle has no selector",
                value=self.bundle.name,
                advice="Choose another --patches, or a bundle with a selector",
            )
        return self.selector

    @property
    def _local(self) -> LocalBranch:
        if self.local is None:
            raise WeightsError(
                "the bundle has no local branch",
                value=self.bundle.name,
                advice="Choose another --method, or a bundle of a GRNet",
            )
        return self.local

    def _precisely(self) -> torch.autocast:
        dtype = PRECISIONS[self.precision]
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    def forward(self, network: nn.Module, x: Tensor) -> Tensor:
        """Return the logits of one network, float32, in its precision."""
        with self._precisely():
            logits = network(x.contiguous(memory_format=torch.channels_last))
        return cast("Tensor", logits.float().contiguous())


def activated(logits: Tensor, *, activation: str) -> Tensor:
    """Return the probabilities `(n, classes, h, w)`; one logit under a sigmoid is the second of two classes.

    Args:
        logits: `(n, logits, h, w)`.
        activation: `softmax`, `sigmoid`, or `none` where a caller's network gives probabilities.
    """
    if activation == "none":
        return logits
    if activation == "softmax":
        return logits.softmax(dim=1)
    probs = logits.sigmoid()
    return torch.cat((1 - probs, probs), dim=1) if probs.shape[1] == 1 else probs


def load_networks(bundle: Bundle, *, device: str, precision: str) -> Networks:
    """Read, check and place a bundle's networks.

    Args:
        bundle: A bundle that `load_bundle` has read.
        device: `cpu`, `cuda`, `cuda:1`, `mps`.
        precision: `float32`, `bfloat16` or `float16`, of what happens inside the networks.

    Raises:
        WeightsError: A file is missing, damaged, has another hash, or does not fit its architecture.
        DeviceError: The device or the precision is not to be had.
    """
    dtype = precision_of(precision)
    if bundle.foreign is not None:
        raise WeightsError(
            "this needs a network of the program's own architectures, and the bundle holds one of another library",
            value=f"{bundle.name}, of the kind {bundle.foreign.kind}",
            file=bundle.folder,
            advice="Take a bundle that 'magnet train backbone' has made",
        )
    classes = len(bundle.classes)
    backbone = filled(
        partial(
            build_backbone,
            bundle.backbone.architecture,
            classes=bundle.logits,
            bands=len(bundle.input.bands),
            options=bundle.backbone.options,
        ),
        spec=bundle.backbone,
        folder=bundle.folder,
    )
    refiners = [
        filled(
            partial(build_refiner, spec.architecture, classes=classes, options=spec.options),
            spec=spec,
            folder=bundle.folder,
        )
        for spec in bundle.refiners
    ]
    place = placed(device)
    return Networks(
        bundle=bundle,
        backbone=ready(backbone, device=place, dtype=dtype),
        refiners=tuple(ready(network, device=place, dtype=dtype) for network in refiners),
        device=place,
        precision=precision,
        selector=placed_selector(bundle, place=place, dtype=dtype),
        local=placed_local(bundle, place=place, dtype=dtype),
    )


def placed_selector(bundle: Bundle, *, place: torch.device, dtype: torch.dtype) -> PatchProposalNetwork | None:
    """Return the selector of a bundle on a device; None where it has none."""
    network = None if bundle.selector is None else _built(build_selector, bundle, bundle.selector)
    if network is not None:
        # Only the encoder is traced, because a traced network has no `score_map`.
        network.encoder = cast("ResNet", ready(network.encoder, device=place, dtype=dtype))
        network.eval().requires_grad_(requires_grad=False).to(place)
    return network


def placed_local(bundle: Bundle, *, place: torch.device, dtype: torch.dtype) -> LocalBranch | None:
    """Return the local branch of a GRNet's bundle on a device; None where it has none."""
    network = None if bundle.local is None else _built(build_local, bundle, bundle.local)
    if network is not None:
        for name, part in list(network.named_children()):
            if name != "saliency":
                setattr(network, name, ready(part, device=place, dtype=dtype))
        network.eval().requires_grad_(requires_grad=False).to(place)
    return network


def _built(build: Callable[..., Built], bundle: Bundle, spec: NetworkSpec) -> Built:
    """Return a network of a GRNet with the weights of its file."""
    bands, classes = len(bundle.input.bands), len(bundle.classes)
    made = partial(build, spec.architecture, bands=bands, classes=classes, options=spec.options)
    return filled(made, spec=spec, folder=bundle.folder)


def precision_of(word: str) -> torch.dtype:
    """Return the type that networks compute in.

    Raises:
        DeviceError: There is no such precision.
    """
    if word not in PRECISIONS:
        raise DeviceError("unknown precision", value=word, advice=f"Choose from {', '.join(PRECISIONS)}.")
    return PRECISIONS[word]


def placed(device: str) -> torch.device:
    """Return the device of that name, after a try."""
    try:
        place = torch.device(device)
        # torch.device takes names of devices that this machine lacks; only a tensor on one shows it.
        torch.zeros(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as exc:
        raise DeviceError(
            f"the device cannot be used: {str(exc).splitlines()[0]}",
            value=device,
            advice="Choose another device with --device; 'magnet doctor' lists them",
        ) from exc
    return place


def ready(network: nn.Module, *, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Prepare a network for inference on a device: layers fused, convolutions' weights in their precision."""
    reach = network.reach if isinstance(network, Reaches) else None
    # Simplified networks trade a few wide convolutions for one with very few outputs, which pays on a CPU alone.
    network = fused(network.eval().requires_grad_(requires_grad=False), simplify=device.type == "cpu")
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(dtype)
    if reach is not None:
        network = InStrips(network, reach=reach)
    return channels_last(network.requires_grad_(requires_grad=False).to(device))


def channels_last(network: nn.Module) -> nn.Module:
    """Return the network with its convolutions in the layout that is fastest on CPUs and GPUs."""
    # Some versions of torch declare no `memory_format` for modules, though all take it.
    options: dict[str, Any] = {"memory_format": torch.channels_last}
    stored: nn.Module = network.to(**options)
    return stored
