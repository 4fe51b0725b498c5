"""Train networks of other libraries on the aerial scenes by a plain PyTorch loop, and save them by their own call.

    python -m benchmarks.accuracy.scenes --data DATA --work WORK
    python -m benchmarks.accuracy.foreign_training --work WORK --network smp-fpn

Tiles 5 and 7 are held out. The loop knows nothing of this program: windows of 256 pixels at one scale (or enlarged at
random, as recipes of the mmsegmentation family do), mirrored and turned, cross-entropy, AdamW with a rate that
rises and falls. The network becomes WORK/networks/NAME. A training goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
import torch
from torch import nn

from benchmarks.accuracy.foreign_networks import FOREIGN, INPUT, TrainedNetwork
from benchmarks.accuracy.pretrained import TRAINING
from benchmarks.accuracy.segmented_tables import CLASSES

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

BATCH = 4
RATE, ENCODER_RATE = 1e-3, 3e-4
IGNORE = 255
KEPT = 50
"""Iterations between two checkpoints."""


@dataclass(frozen=True)
class Scene:
    """A scene in memory."""

    pixels: NDArray[np.uint8]
    """Pixels `(rows, columns, 3)`."""
    labels: NDArray[np.uint8]
    """Labels `(rows, columns)`, 255 where nothing is labelled."""


def load_scenes(work: Path) -> list[Scene]:
    """Return the scenes on which networks are trained."""
    folder = work / "dubai"
    return [
        Scene(tifffile.imread(folder / f"{name}.tif"), tifffile.imread(folder / f"{name}-labels.tif"))
        for name in TRAINING
    ]


def class_weights(scenes: list[Scene]) -> Tensor:
    """Return one over the square root of each class's share, scaled so that the mean over pixels is one."""
    counts = sum(np.bincount(scene.labels.ravel(), minlength=IGNORE + 1)[: len(CLASSES)] for scene in scenes)
    share = torch.as_tensor(counts, dtype=torch.float64)
    share = share / share.sum()
    weights = share**-0.5
    return (weights / (weights * share).sum()).float()


def batch(scenes: list[Scene], iteration: int, network: TrainedNetwork) -> tuple[Tensor, Tensor]:
    """Return normalised windows `(n, 3, 256, 256)` and labels `(n, 256, 256)`, which depend on the iteration alone."""
    rng = np.random.default_rng([1, iteration])
    shares = np.array([scene.labels.size for scene in scenes], np.float64)
    chosen = rng.choice(len(scenes), size=BATCH, p=shares / shares.sum())
    pairs = [window(scenes[int(index)], rng, network.enlargement) for index in chosen]
    pixels = torch.stack([pixels for pixels, _ in pairs])
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (network.mean, network.std))
    return (pixels - mean) / std, torch.stack([labels for _, labels in pairs])


def window(scene: Scene, rng: np.random.Generator, enlargement: float) -> tuple[Tensor, Tensor]:
    """Return a window of a scene with values from 0 to 1, and its labels."""
    side = round(INPUT / enlargement ** rng.uniform(-1, 1))
    rows, columns = scene.labels.shape
    y, x = int(rng.integers(rows - side + 1)), int(rng.integers(columns - side + 1))
    part = np.s_[y : y + side, x : x + side]
    turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
    pixels = torch.from_numpy(scene.pixels[part]).permute(2, 0, 1).float()[None] / 255
    labels = torch.from_numpy(scene.labels[part]).long()
    if side != INPUT:
        size = (INPUT, INPUT)
        pixels = nn.functional.interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)
        labels = nn.functional.interpolate(labels[None, None].float(), size=size, mode="nearest-exact")[0, 0].long()
    gain, shift = rng.uniform(0.8, 1.25, size=(3, 1, 1)), rng.uniform(-0.1, 0.1)
    pixels = (pixels[0] * torch.from_numpy(gain).float() + shift).clamp(0, 1)
    if mirrored:
        pixels, labels = pixels.flip(2), labels.flip(1)
    return torch.rot90(pixels, turns, (1, 2)), torch.rot90(labels, turns, (0, 1))


def keep_depthwise_exact(network: nn.Module) -> None:
    """Compute depthwise convolutions in float32: their backward pass in bfloat16 is slow on CPUs."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            layer: Any = module
            layer.forward = exact(layer.forward)


def exact(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Make a forward pass in float32, whatever precision is set around it."""

    def call(x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return forward(x.float())

    return call


def train(name: str, work: Path) -> None:
    """Train a network from its last checkpoint to the end, and save it."""
    known = FOREIGN[name]
    torch.manual_seed(1)
    network = known.build().train().to(memory_format=torch.channels_last)
    keep_depthwise_exact(network)
    encoder = list(network.get_submodule(known.encoder).parameters()) if known.encoder else []
    inner = {id(parameter) for parameter in encoder}
    rest = [parameter for parameter in network.parameters() if id(parameter) not in inner]
    groups = [{"params": rest}, *([{"params": encoder}] if encoder else [])]
    optimizer = torch.optim.AdamW(groups, lr=RATE, weight_decay=0.05)
    rates = [RATE, ENCODER_RATE][: len(groups)]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rates, total_steps=known.iterations, pct_start=0.1, cycle_momentum=False
    )
    folder = work / "networks"
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / f"{name}.checkpoint"
    parts: dict[str, Any] = {"network": network, "optimizer": optimizer, "schedule": schedule}
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        first = state.pop("iteration")
        for key, values in state.items():
            parts[key].load_state_dict(values)
    scenes = load_scenes(work)
    weights = class_weights(scenes)
    started = time.monotonic()
    for iteration in range(first, known.iterations):
        pixels, labels = batch(scenes, iteration, known)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            scores = known.scores(network, pixels)
        loss = nn.functional.cross_entropy(scores.float(), labels, weights, ignore_index=IGNORE)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if (iteration + 1) % KEPT == 0 or iteration + 1 == known.iterations:
            torch.save(
                {key: part.state_dict() for key, part in parts.items()} | {"iteration": iteration + 1},
                part := checkpoint.with_suffix(".part"),
            )
            part.replace(checkpoint)
        if (iteration + 1) % 20 == 0:
            print(name, iteration + 1, f"loss {loss.item():.3f}, {time.monotonic() - started:.0f} s", flush=True)
    settle_norms(network, scenes, known)
    known.save(network.eval(), folder / name)


def settle_norms(network: nn.Module, scenes: list[Scene], known: TrainedNetwork) -> None:
    """Average the statistics of norms anew over batches after those of the training."""
    if not known.settling:
        return
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.inference_mode():
        for number in range(known.settling):
            known.scores(network, batch(scenes, known.iterations + number, known)[0])


def main() -> None:
    """Train the networks that have not been saved yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("accuracy-work"))
    parser.add_argument("--network", action="append", choices=tuple(FOREIGN))
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.network or FOREIGN:
        if not (args.work / "networks" / f"{name}{FOREIGN[name].suffix}").exists():
            train(name, args.work)


if __name__ == "__main__":
    main()
