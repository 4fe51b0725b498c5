"""Where memory runs out, a run continues to the same mask, or ends with exit code 6 and keeps all finished groups."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import torch

from benchmarks.gpu.bundles import paper
from benchmarks.gpu.running import Watch, agreement, draw, labels, run_once
from magnet_cli.errors import DeviceError, MemoryShortageError
from magnet_cli.events import Events
from magnet_cli.geometry import Size
from magnet_cli.models.device import device_peak, release_device_memory, reset_device_peak
from magnet_cli.segmentation.image_planner import plan_image
from magnet_cli.segmentation.segment_model import load_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from benchmarks.gpu.part import Findings, Setting
    from magnet_cli.models.networks import Networks
    from magnet_cli.options.segment import SegmentOptions
    from magnet_cli.segmentation.segment_model import Model

MIB = 1 << 20


def run(setting: Setting, findings: Findings) -> None:
    """Let memory run out before the first group, in the middle, and by a budget."""
    image = draw(setting.folder / "scene.tif", 1900 if setting.short else 7_300)
    options = paper(setting, precision="float32")
    if not setting.short:
        # One block a group: several groups in an image that is done in seconds.
        options = replace(options, batch_size=4, scales=tuple(Size(width=side, height=side) for side in (1224, 612)))
    model = load_model(options, Events())
    checks = (("repeated", _repeated), ("alone", _alone), ("in the middle", _middle), ("halved batches", _halved))
    for what, check in checks:
        with findings.guarded(f"out of memory: {what}"):
            check(setting, findings, image, model, options)
    if setting.kind == "cuda":
        with findings.guarded("out of memory: --gpu-memory"):
            _budget(setting, findings, image, options)


def _halved(setting: Setting, findings: Findings, image: Path, model: Model, options: SegmentOptions) -> None:
    """Allow no batch above a quarter of the first. The mask has to be that of networks that refuse larger batches."""
    batch = 4 if setting.short else 32
    options = replace(options, batch_size=batch)
    watch = Watch()
    with _short_of_memory(setting, model, options, image, above=batch // 4) as short:
        report = run_once(image, setting.folder / "halved.tif", short, options, watch)
        failed = _failed_allocations(setting)
    fitted = int(report["options"]["batch"])
    picky = replace(model, networks=cast("Networks", _Failing(model.networks, above=fitted)))
    run_once(image, setting.folder / "picky.tif", picky, options)
    same = bool((labels(setting.folder / "halved.tif") == labels(setting.folder / "picky.tif")).all())
    findings.add(
        f"out of memory before the first group: {batch} patches a pass became {fitted}",
        "same mask" if same else f"{agreement(setting.folder / 'halved.tif', setting.folder / 'picky.tif'):.4%} equal",
        aim="fewer, and the mask of that batch",
        met=same and fitted < batch,
        failed_allocations=failed,
        notes=watch.messages,
    )


def _repeated(setting: Setting, findings: Findings, image: Path, model: Model, options: SegmentOptions) -> None:
    """Compare two runs with plenty of memory and one with hardly more than they took."""
    names = ("plain", "again", "tight")
    peak = 0
    for name in names:
        if name == "tight":
            _cap(setting, peak * 1.02)
        before = _failed_allocations(setting)
        reset_device_peak(setting.device)
        release_device_memory(setting.device)
        watch = Watch()
        try:
            run_once(image, setting.folder / f"{name}.tif", model, options, watch)
        finally:
            _uncap(setting)
        peak = device_peak(setting.device).get("allocated", 0)
        share = agreement(setting.folder / "plain.tif", setting.folder / f"{name}.tif")
        findings.add(
            f"the same run, {name}",
            f"{share:.4%} equal",
            aim="all labels" if name == "again" else "",
            met=share == 1 if name == "again" else None,
            failed_allocations=_failed_allocations(setting) - before,
            notes=watch.messages,
            peak=peak,
        )


def _alone(setting: Setting, findings: Findings, image: Path, model: Model, options: SegmentOptions) -> None:
    """Let memory run out once. The group has to be computed again with nothing beside it."""
    plain, once = setting.folder / "plain.tif", setting.folder / "once.tif"
    failing = _Failing(model.networks, at_call=9)
    watch = Watch()
    run_once(image, once, replace(model, networks=cast("Networks", failing)), options, watch)
    same = plain.read_bytes() == once.read_bytes()
    findings.add(
        "out of memory once: the group is computed again",
        "same bytes" if same else "other bytes",
        aim="the bytes of a run without it",
        met=same and failing.failed,
        notes=watch.messages,
    )


def _middle(setting: Setting, findings: Findings, image: Path, model: Model, options: SegmentOptions) -> None:
    """Let memory run out after some groups.

    The run has to end with exit code 6, and the same command with memory again has to finish the mask.
    """
    mask = setting.folder / "middle.tif"
    hog = _Hog(setting, model)
    watch, error = Watch(at_group=hog.at_group), None
    try:
        run_once(image, mask, hog.model, options, watch)
    except MemoryShortageError as raised:
        error = raised
    hog.release()
    kept = watch.done[-1][1] if watch.done else 0
    report = run_once(image, mask, model, options)
    resumed = report["groups"]["resumed"] if "groups" in report else None
    same = mask.read_bytes() == (setting.folder / "plain.tif").read_bytes()
    findings.add(
        f"out of memory for good after {kept} groups, then run again",
        f"exit code {None if error is None else error.exit_code}, then {'same' if same else 'other'} bytes",
        aim="exit code 6, then the bytes of a run without it",
        met=error is not None and error.exit_code == 6 and same,
        error=str(error),
        resumed=resumed,
    )


def _budget(setting: Setting, findings: Findings, image: Path, options: SegmentOptions) -> None:
    """Set a budget of exactly the planned bytes, which has to be kept, and a smaller one, which has to be refused."""
    options = replace(options, batch_size=4)
    model = load_model(options, Events())
    planned = plan_image(image, model.facts, options, model.machine).memory.device
    del model
    gc.collect()
    release_device_memory(setting.device)
    try:
        small = replace(options, gpu_memory=planned // 2)
        run_once(image, setting.folder / "small.tif", load_model(small, Events()), small)
        refusal = None
    except DeviceError as raised:
        refusal = raised
    findings.add(
        "--gpu-memory of half of what is planned",
        "ran" if refusal is None else f"refused, exit code {refusal.exit_code}",
        aim="exit code 6",
        met=refusal is not None and refusal.exit_code == 6,
        error=str(refusal),
    )
    tight = replace(options, gpu_memory=planned + 8 * MIB)
    model = load_model(tight, Events())
    reset_device_peak(setting.device)
    watch = Watch()
    try:
        run_once(image, setting.folder / "tight.tif", model, tight, watch)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, setting.device)
    peak = device_peak(setting.device)
    findings.add(
        "--gpu-memory of what is planned",
        f"reserved {peak['reserved'] / MIB:.0f} MiB, process {peak['process'] / MIB:.0f} MiB, "
        f"planned {planned / MIB:.0f} MiB",
        aim="process <= budget, and the run fits without a smaller batch",
        met=peak["process"] <= planned + 8 * MIB and not any("short" in note for note in watch.messages),
        notes=watch.messages,
        **peak,
    )


@dataclass
class _Failing:
    """Networks that raise the error of a device without free memory."""

    networks: Networks
    at_call: int | None = None
    """Number of the call that fails. None lets no call fail."""
    above: int | None = None
    """Largest batch that succeeds."""
    always: bool = False
    failed: bool = False
    calls: int = field(default=0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.networks, name)

    def predict(self, patches: Tensor, scale: Size) -> Tensor:
        """Predict, or run out of memory."""
        self.calls += 1
        if self.always or self.calls == self.at_call or (self.above is not None and len(patches) > self.above):
            self.failed = True
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more than there is")
        return self.networks.predict(patches, scale)


@contextmanager
def _short_of_memory(
    setting: Setting, model: Model, options: SegmentOptions, image: Path, *, above: int
) -> Iterator[Model]:
    """Yield a model on a device on which larger batches do not fit.

    On a GPU its allocator is limited to hardly more than a run takes whose networks refuse larger batches. Elsewhere
    the networks refuse them.
    """
    picky = replace(model, networks=cast("Networks", _Failing(model.networks, above=above)))
    if setting.kind != "cuda":
        yield picky
        return
    release_device_memory(setting.device)
    reset_device_peak(setting.device)
    run_once(image, setting.folder / "fits.tif", picky, options)
    _cap(setting, torch.cuda.max_memory_allocated(setting.device) * 1.1)
    try:
        yield model
    finally:
        _uncap(setting)


def _cap(setting: Setting, size: float) -> None:
    if setting.kind == "cuda":
        release_device_memory(setting.device)
        total = torch.cuda.get_device_properties(setting.device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, size / total), setting.device)


def _uncap(setting: Setting) -> None:
    if setting.kind == "cuda":
        torch.cuda.set_per_process_memory_fraction(1.0, setting.device)


def _failed_allocations(setting: Setting) -> int:
    """Return how often the allocator had no memory, also where an operation silently took another way."""
    return int(torch.cuda.memory_stats(setting.device).get("num_ooms", 0)) if setting.kind == "cuda" else 0


class _Hog:
    """Takes all memory of the device after the first groups.

    On a GPU it is the allocator's memory. Elsewhere the networks raise the error.
    """

    AFTER = 2

    def __init__(self, setting: Setting, model: Model) -> None:
        self._setting = setting
        self._failing = _Failing(model.networks)
        self.model = model if setting.kind == "cuda" else replace(model, networks=cast("Networks", self._failing))

    def at_group(self, done: int) -> None:
        """Take all memory once enough groups are done."""
        if done < self.AFTER:
            return
        self._failing.always = True
        if self._setting.kind == "cuda":
            # What the allocator keeps for later would last for the rest of the run.
            torch.cuda.set_per_process_memory_fraction(1e-4, self._setting.device)
            release_device_memory(self._setting.device)

    def release(self) -> None:
        """Free the memory."""
        self._failing.always = False
        if self._setting.kind == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0, self._setting.device)
