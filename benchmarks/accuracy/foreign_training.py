"""Train networks of other libraries on the aerial scenes by a plain PyTorch loop, and save them by their own call.

    python -m benchmarks.accuracy.scenes --data DATA --work WORK
    python -m benchmarks.accuracy.foreign_training --work WORK --network smp-fpn

Tiles 5 and 7 are held out. The loop knows nothing of this program: windows of 256 pixels at one scale (or enlarged at
random, as recipes of the mmsegmentation family do), mirrored and turned, cross-entropy, AdamW with a rate that
rises and falls. The network becomes WORK/networks/NAME, and WORK/networks/NAME.json states what the training cost. A
training goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import math
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
FIRST, LAST = 1 / 25, 1 / 250_000
"""Rates at the beginning and at the end, as shares of the highest."""
IGNORE = 255
KEPT, SHOWN = 50, 20
"""Iterations between two checkpoints, and between two lines."""


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
    folder = work / "networks"
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / f"{name}.checkpoint"
    new = checkpoint.with_suffix(".part")
    parts: dict[str, Any] = {"network": network, "optimizer": optimizer}
    iteration, spent = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        iteration, spent = state["iteration"], state["seconds"]
        for key, part in parts.items():
            part.load_state_dict(state[key])
    scenes = load_scenes(work)
    weights = class_weights(scenes)
    started = time.process_time() - spent
    while iteration < known.iterations:
        for group, highest in zip(optimizer.param_groups, (RATE, ENCODER_RATE), strict=False):
            group["lr"] = highest * rate_share(iteration, known)
        pixels, labels = batch(scenes, iteration, known)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            scores = known.scores(network, pixels)
        loss = nn.functional.cross_entropy(scores.float(), labels, weights, ignore_index=IGNORE)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        iteration += 1
        spent = time.process_time() - started
        if iteration % KEPT == 0 or iteration == known.iterations:
            reached = {"iteration": iteration, "seconds": spent}
            torch.save({key: part.state_dict() for key, part in parts.items()} | reached, new)
            new.replace(checkpoint)
        if iteration % SHOWN == 0:
            print(f"{name} {iteration} loss {loss.item():.3f}, {spent:.0f} s of processor time", flush=True)
    settle_norms(network, scenes, known)
    known.save(network.eval(), folder / name)
    cost = {"iterations": iteration, "processor_minutes": round(spent / 60, 1)}
    (folder / f"{name}.json").write_text(json.dumps(cost) + "\n")


def rate_share(iteration: int, known: TrainedNetwork) -> float:
    """Return the rate of an iteration as a share of the highest: it rises and falls as half waves of a cosine."""
    peak, last = known.rising * known.iterations - 1, known.iterations - 1
    begin, end, part = (
        (FIRST, 1.0, iteration / peak) if iteration < peak else (1.0, LAST, (iteration - peak) / (last - peak))
    )
    return end + (begin - end) / 2 * (1 + math.cos(math.pi * part))


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
