"""Plans of segmentations, and the time that they will take."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from magnet_cli import images
from magnet_cli.areas import specify
from magnet_cli.events import Events
from magnet_cli.masks.targets import input_images
from magnet_cli.models.device import device_case, machine_of, resolve_device, resolve_precision
from magnet_cli.models.python_network import PythonNetwork
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.plan import Machine, ModelFacts, Plan, check_bands, inspect_bands, make_plan
from magnet_cli.segmentation.segment_model import chosen_bundle, engine_of_run, facts_of_run, load_last_stage
from magnet_cli.segmentation.stains import check_preparation, find_stains
from magnet_cli.system.memory import host_memory
from magnet_cli.system.speeds import Case, nearest_figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from magnet_cli.models.bundle import Bundle
    from magnet_cli.models.python_network import NetworkDescription, PatchFunction
    from magnet_cli.refinement.last_stage import LastStage
    from magnet_cli.refinement.method import RefinePreview


def as_words(inputs: str | Path | Sequence[str | Path]) -> list[str]:
    """Return one input or several as the list of words that a command line would have."""
    return [str(inputs)] if isinstance(inputs, str | Path) else [str(item) for item in inputs]


def plan_segment(
    inputs: str | Path | Sequence[str | Path],
    options: SegmentOptions | None = None,
    *,
    network: PatchFunction | None = None,
    description: NetworkDescription | None = None,
) -> list[Plan]:
    """Plan what `segment` would do with each image. Nothing is written; few pixels are decoded, or none.

    Args:
        inputs: Files, folders, glob patterns or URLs; one, or several.
        options: Options of the run that is planned.
        network: A callable that takes the place of a bundle. It is run on one patch of noise to measure its memory.
        description: Classes, patch size and normalisation of `network`.

    Returns:
        One plan for each image.

    Raises:
        MagnetError: An image cannot be planned. The error is that of the first such image.
    """
    found = input_images(as_words(inputs))
    planner = Planner.of(options or SegmentOptions(), PythonNetwork.of(network, description))
    return [planner.plan(image.source, image.options) for image in found]


@dataclass(frozen=True, kw_only=True)
class Planner:
    """Plans any number of images with one bundle and one machine."""

    facts: ModelFacts
    options: SegmentOptions
    machine: Machine
    digest: str
    """SHA-256 of the bundle."""
    last: LastStage | None = None
    """The method of `--refine`, which refines finished masks. None without the option."""

    @classmethod
    def of(cls, options: SegmentOptions, own: PythonNetwork | None = None) -> Self:
        """Return a planner for the bundle and the device that the options name.

        The networks of a bundle are not loaded; their memory is estimated from the size of their files.

        Raises:
            WeightsError, DeviceError, UsageError: The bundle or the device cannot be used.
        """
        device = resolve_device(options.device)
        last = load_last_stage(options, Events())
        bundle = chosen_bundle(options, own)
        engine, word = engine_of_run(options, bundle, own)
        precision = resolve_precision(word, device, bundle)
        if own is None:
            facts = facts_of_run(bundle, device=device, precision=precision, engine=engine)
        else:
            facts = own.load(device=device, precision=precision)[0]
        machine = machine_of(
            device,
            precision,
            engine=engine,
            memory=options.memory,
            gpu_memory=options.gpu_memory,
            base=(host_memory() or 0) + 2 * _weights_bytes(bundle),  # float16 on disk is float32 in memory
        )
        last = None if last is None else last.after([entry.name for entry in bundle.classes], base=machine.base)
        return cls(facts=facts, options=options, machine=machine, digest=bundle.digest, last=last)

    def plan(self, image: str | Path, own: Mapping[str, Any] | None = None) -> Plan:
        """Plan what `segment` would do with an image.

        Args:
            image: A file or a URL.
            own: Options that hold for this image alone, by name, as a list of images gives them.

        Raises:
            MagnetError: The image cannot be segmented with these options.
        """
        options = replace(self.options, **own) if own else self.options
        if self.last is not None:
            options = self.last.before(options, options.compat or self.facts.compat)
        return plan_image(image, self.facts, options, self.machine)

    def preview(self, image_plan: Plan) -> RefinePreview | None:
        """Plan what `--refine` will do to the mask of a plan. None without the option.

        Raises:
            MagnetError: The mask cannot be refined with these options.
        """
        return None if self.last is None else self.last.preview(image_plan)

    def seconds(self, image_plan: Plan) -> float | None:
        """Estimate the time of a run from the speed that `magnet bench` measured on this machine; None without one."""
        figure = nearest_figure(case_of(image_plan, digest=self.digest), pixels=image_plan.image.size.pixels)
        return None if figure is None else windows_planned(image_plan) / figure.windows_per_second


def plan_image(
    image: str | Path,
    facts: ModelFacts,
    options: SegmentOptions,
    machine: Machine,
    *,
    folder: Path | None = None,
    info: images.ImageInfo | None = None,
) -> Plan:
    """Plan a run over one image.

    Pixels are decoded only for percentiles that `--value-range` asks for, and for the stains of a section.

    Args:
        image: A file or a URL.
        facts: The facts of the bundle.
        options: The options of the run.
        machine: The device and the memory of the run.
        folder: Folder for the decoded copy of an image that cannot be read by region. None is the system's folder for
            temporary files.
        info: The facts about the image, if they are known already. None opens the image for them.

    Raises:
        MagnetError: The image cannot be segmented with these options.
    """
    info = inspect_bands(image, options) if info is None else info
    measured, given = None, options.value_range
    if given is not None and given.kind == "percentiles":
        bands = check_bands(info, facts, options.bands)
        with images.reopen(info, cache=_cache(folder)) as opened:
            measured = images.sample_percentiles(opened, bands, (float(given.low), float(given.high)))
    plan = make_plan(info, facts, options, machine, specify(options, info), measured=measured)
    if facts.preparation == "none":
        return plan
    check_preparation(plan, facts)
    with images.reopen(info, cache=_cache(folder)) as opened:
        return replace(plan, preparation=find_stains(opened, plan.bands, facts.preparation))


def _cache(folder: Path | None) -> images.CacheBudget | None:
    return images.CacheBudget.temporary() if folder is None else images.CacheBudget.within(folder)


def case_of(image_plan: Plan, *, digest: str) -> Case:
    """Return what the speed of a run depends on: the key under which speeds are stored.

    Args:
        image_plan: The plan of the run.
        digest: SHA-256 of its bundle.
    """
    settings, precision, engine = image_plan.settings, image_plan.machine.precision, image_plan.machine.engine
    return Case(
        bundle=digest,
        device=device_case(image_plan.machine.device),
        precision=precision if engine == "torch" else f"{precision} in {engine}",
        method=settings.method,
        merge=settings.merge if settings.refines else "none",
        batch=image_plan.batch,
    )


def windows_planned(image_plan: Plan) -> int:
    """Return the largest number of windows that the run may forward through the backbone, mirror images included."""
    windows = sum(image_plan.windows(step, stage) for step in image_plan.passes for stage in step.stages)
    return image_plan.settings.images * windows


def _weights_bytes(bundle: Bundle) -> int:
    if bundle.foreign is not None:
        names = (bundle.foreign_files / name for name in bundle.foreign.files)
        return sum(file.stat().st_size for file in names if file.is_file())
    optional = filter(None, (bundle.selector, bundle.local))
    files = {spec.file for spec in (bundle.backbone, *bundle.refiners, *optional)}
    return sum((bundle.folder / file).stat().st_size for file in files if (bundle.folder / file).is_file())
