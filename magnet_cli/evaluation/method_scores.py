"""The methods of a bundle on labelled images: their masks, scores and costs."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from magnet_cli import images
from magnet_cli.errors import MagnetError, UsageError
from magnet_cli.evaluation.mask_scores import (
    Evaluation,
    check_inputs,
    evaluate_segmented,
    is_drawn,
    refuse_values_of_polygons,
)
from magnet_cli.evaluation.statistics import Distribution, Pooled, paired_difference
from magnet_cli.evaluation.stored_values import classes_of_values
from magnet_cli.events import Events
from magnet_cli.geometry import LEVEL0
from magnet_cli.images.dataset import DatasetSample, read_dataset
from magnet_cli.masks.our_files import mask_files
from magnet_cli.masks.targets import Target
from magnet_cli.models.bundle import bundle_files
from magnet_cli.models.python_network import PythonNetwork
from magnet_cli.options.evaluate import ScoreOptions
from magnet_cli.plan.bands import check_bands, inspect_bands
from magnet_cli.segmentation.image_series import segment_target
from magnet_cli.segmentation.segment_model import load_model
from magnet_cli.system.closing import Closing
from magnet_cli.system.memory import trim
from magnet_cli.system.scratch import scratch_folder
from magnet_cli.system.written_files import refuse_collisions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from magnet_cli.evaluation.mask_scores import ClassScore
    from magnet_cli.evaluation.statistics import Difference
    from magnet_cli.events import Step
    from magnet_cli.geometry import Box
    from magnet_cli.models.python_network import NetworkDescription, PatchFunction
    from magnet_cli.options.evaluate import EvaluationOptions
    from magnet_cli.options.segment import Method, SegmentOptions
    from magnet_cli.segmentation.segment_model import Model

BASELINES: tuple[Method, ...] = ("downsample", "patch")
"""The methods with which a coarse-to-fine method is compared: the coarsest stage alone, and the finest alone."""
MEGAPIXEL = 1e6


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of a mask, from the report of the run that finished it."""

    windows_run: int
    """Forward passes of the backbone over all stages."""
    megapixels: float
    """The megapixels of the image, at level 0."""
    seconds: float
    """The seconds of all runs that made the mask."""
    host_peak: int | None
    """The most bytes of the whole program."""
    device_peak: int | None
    """Bytes that the device had set aside for the program; None on a CPU."""

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> Self:
        """Return the cost that the report beside a mask states."""
        size, memory = report["input"]["size"], report["memory"]
        return cls(
            windows_run=sum(stage["windows_run"] for step in report["passes"] for stage in step["stages"]),
            megapixels=size["width"] * size["height"] / MEGAPIXEL,
            seconds=report["seconds"]["wall"],
            host_peak=memory["host_peak"],
            device_peak=max(memory["device_peak"].values(), default=None),
        )

    @classmethod
    def total(cls, costs: Sequence[Cost]) -> Self:
        """Return the sum of costs, with the highest of their peaks."""
        host = [cost.host_peak for cost in costs if cost.host_peak is not None]
        device = [cost.device_peak for cost in costs if cost.device_peak is not None]
        return cls(
            windows_run=sum(cost.windows_run for cost in costs),
            megapixels=sum(cost.megapixels for cost in costs),
            seconds=round(sum(cost.seconds for cost in costs), 3),
            host_peak=max(host, default=None),
            device_peak=max(device, default=None),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageScore:
    """One image by one method."""

    sample: DatasetSample
    method: Method | None
    """The method; None where no method was tried, since the image and its labels cannot be compared."""
    mask: Path | None
    """The path of the mask; None where masks are not kept."""
    was_done: bool = False
    """Whether an earlier run had finished the mask."""
    evaluation: Evaluation | None = None
    """The scores; None where the image failed."""
    cost: Cost | None = None
    error: MagnetError | None = None

    def describe(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        found: dict[str, object] = {
            "name": self.sample.name,
            "image": str(self.sample.image),
            "truth": str(self.sample.label),
            "roi": self.sample.roi and str(self.sample.roi),
            **({} if self.sample.corrections is None else {"corrections": str(self.sample.corrections)}),
            "method": self.method,
            "mask": self.mask and str(self.mask),
        }
        if self.error is not None:
            return {**found, "status": "failed", **self.error.describe()}
        status = "already done" if self.was_done else "done"
        scores = self.evaluation.describe() if self.evaluation is not None else {}
        return {**found, "status": status, **scores, **(vars(self.cost) if self.cost is not None else {})}


@dataclass(frozen=True, kw_only=True, eq=False)
class MethodScore:
    """All images by one method."""

    method: Method
    rows: tuple[ImageScore, ...]
    options: ScoreOptions

    @cached_property
    def found(self) -> tuple[Evaluation, ...]:
        """The evaluations of the images that did not fail."""
        return tuple(row.evaluation for row in self.rows if row.evaluation is not None)

    @cached_property
    def pooled(self) -> Pooled:
        """The scores of the pixels of all images together."""
        return Pooled.of(self.found, self.options.evaluation)

    @cached_property
    def mious(self) -> Distribution:
        """Mean IoU image by image."""
        return Distribution.of(found.miou for found in self.found)

    @property
    def thresholded_iou(self) -> float | None:
        """The mean over images of their mean IoU, 0 where it is below the threshold."""
        return self.mious.thresholded(self.options.iou_threshold)

    @property
    def mba_beside(self) -> float | None:
        """Boundary accuracy within radii that grow with the image: the mean over images; they cannot be pooled."""
        counted = (found.boundary_beside for found in self.found)
        return Distribution.of(counts.mba for counts in counted if counts is not None).mean

    @property
    def cost(self) -> Cost:
        """The cost of the images that did not fail."""
        return Cost.total([row.cost for row in self.rows if row.cost is not None])

    def ious(self, label: int) -> Distribution:
        """Return the IoU of a class image by image, where the truth or the mask has it."""
        return Distribution.of(entry.iou for found in self.found for entry in found.classes if entry.index == label)

    def describe(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        pooled, rule = self.pooled, self.options.evaluation.boundary
        return {
            "method": self.method,
            "images": len(self.found),
            "failed": len(self.rows) - len(self.found),
            "miou": pooled.miou,
            "miou_mean": self.mious.mean,
            "thresholded_iou": self.thresholded_iou,
            "iou_threshold": self.options.iou_threshold,
            "miou_distribution": self.mious.describe(),
            "f1": pooled.f1,
            "pixel_accuracy": pooled.accuracy,
            "mba": pooled.mba,
            **({f"mba_{rule}": self.mba_beside} if rule not in (None, "fixed") else {}),
            "boundary": pooled.boundary and {pooled.boundary.rule: pooled.boundary.describe()},
            "labelled": pooled.labelled,
            "not_computed": pooled.not_computed,
            "classes": [self._class(entry) for entry in pooled.classes],
            "confusion": pooled.confusion.tolist(),
            **vars(self.cost),
        }

    def _class(self, entry: ClassScore) -> dict[str, object]:
        single = self.ious(entry.index)
        return {
            **vars(entry),
            "iou": entry.iou,
            "f1": entry.f1,
            "iou_mean": single.mean,
            "thresholded_iou": single.thresholded(self.options.iou_threshold),
            "iou_distribution": single.describe(),
        }


@dataclass(frozen=True, kw_only=True)
class Gain:
    """The difference in mean IoU between a method and a baseline, over the images that both have."""

    method: Method
    baseline: Method
    is_best_baseline: bool
    """Whether no other baseline has a higher mean over images."""
    difference: Difference

    def describe(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        return {
            "method": self.method,
            "baseline": self.baseline,
            "is_best_baseline": self.is_best_baseline,
            **vars(self.difference),
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """The scores of every method."""

    methods: tuple[MethodScore, ...]

    @classmethod
    def of(cls, rows: Iterable[ImageScore], options: ScoreOptions) -> Self:
        """Sort the rows by method."""
        rows = tuple(rows)
        return cls(
            methods=tuple(
                MethodScore(
                    method=method, rows=tuple(row for row in rows if row.method in (method, None)), options=options
                )
                for method in options.methods
            )
        )

    @property
    def gains(self) -> tuple[Gain, ...]:
        """The gains of every method over each baseline, of baselines over those before them in `BASELINES`."""
        by_name = {score.method: score for score in self.methods}
        baselines = [by_name[name] for name in BASELINES if name in by_name]
        # Which baseline is better depends on the data. A gain over the weaker one alone would flatter the method.
        best = max(baselines, key=lambda score: score.mious.mean or 0.0, default=None)
        return tuple(
            Gain(
                method=score.method,
                baseline=baseline.method,
                is_best_baseline=baseline is best,
                difference=paired_difference([pair[0] for pair in pairs], [pair[1] for pair in pairs]),
            )
            for score in self.methods
            for baseline in baselines
            if _rank(baseline) < _rank(score) and (pairs := _pairs(score, baseline))
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes for a reader of the scores, each once."""
        found = {note for score in self.methods for one in score.found for note in one.notes}
        scored = {
            frozenset(row.sample.name for row in score.rows if row.evaluation is not None) for score in self.methods
        }
        if len(scored) > 1:
            found.add("not every method has every image: compare image by image, not the pooled scores")
        return tuple(sorted(found))

    def describe(self) -> dict[str, object]:
        """Return the fields as JSON values; single images are listed apart."""
        return {
            "methods": [score.describe() for score in self.methods],
            "gains": [gain.describe() for gain in self.gains],
            "notes": list(self.notes),
        }


def _rank(score: MethodScore) -> int:
    return BASELINES.index(score.method) if score.method in BASELINES else len(BASELINES)


def _pairs(first: MethodScore, second: MethodScore) -> list[tuple[float, float]]:
    """Return the mean IoU of each image that both methods have."""
    others = {row.sample.name: row.evaluation for row in second.rows if row.evaluation is not None}
    both = (
        (row.evaluation.miou, others[row.sample.name].miou)
        for row in first.rows
        if row.evaluation is not None and row.sample.name in others
    )
    return [(one, other) for one, other in both if one is not None and other is not None]


def evaluate_methods(
    data: str | Path,
    output: str | Path | None = None,
    options: ScoreOptions | None = None,
    *,
    network: PatchFunction | None = None,
    description: NetworkDescription | None = None,
    events: Events | None = None,
) -> Scores:
    """Segment labelled images by several methods and compare the masks with the truth.

    Args:
        data: A CSV file with the columns `image`, `label` and, where wanted, `name`, `roi` and `corrections`; its paths
            are relative to its own folder.
        output: A folder for the masks, `<output>/<method>/<name>.tif`; what is finished there is not computed again.
            Without it they are deleted.
        options: The options of the comparison.
        network: A module or another callable that takes the place of a bundle, as `segment` takes it.
        description: The facts about `network` that a bundle would state.
        events: Receives messages, progress and failures.

    Raises:
        MagnetError: Before any work, where nothing could be done for any image. An image that fails later is left out
            of its method's scores; its row carries the error.
    """
    options = options or ScoreOptions()
    own = PythonNetwork.of(network, description)
    return Scores.of(score_each(data, output, options, own=own, events=events), options)


def score_each(
    data: str | Path,
    output: str | Path | None = None,
    options: ScoreOptions | None = None,
    *,
    own: PythonNetwork | None = None,
    events: Events | None = None,
) -> Iterator[ImageScore]:
    """Yield the scores of `evaluate_methods`, one image and method after the other, each as soon as it is known.

    An image that cannot be read or does not fit its labels has one row, without a method; all are opened first.
    """
    options, events = _of_whole_images(options or ScoreOptions()), events or Events()
    samples, folder = read_dataset(Path(data)), None if output is None else Path(output)
    refuse_values_of_polygons(options.evaluation, [sample.label for sample in samples])
    # This comes before the model is loaded, so that masks of one name are refused at once.
    if folder is not None:
        refuse_collisions(
            (
                file
                for sample in samples
                for method in options.methods
                for file in mask_files(_mask(folder, method, sample), owner=f"{sample.image} by {method}")
            ),
            read_files(Path(data), samples, options),
        )
    model = load_model(options.segment, events, own)
    options = _named(options, model)
    # All headers are read before the first image, so that a wrong data set fails in seconds and not after hours.
    unfit = {sample.name: error for sample in samples if (error := _unfit(sample, options, events)) is not None}
    for sample in samples:
        if sample.name in unfit:
            yield ImageScore(sample=sample, method=None, mask=None, error=unfit[sample.name])
            continue
        for method in options.methods:
            if folder is None:
                yield _score_unkept(sample, model, options, method=method, events=events)
            else:
                target = Target(image=str(sample.image), mask=_mask(folder, method, sample))
                yield _score(sample, target, model, options, method=method, events=events)


def _of_whole_images(options: ScoreOptions) -> ScoreOptions:
    """Return options that segment whole images, because pixels that are not computed count as wrong.

    Raises:
        UsageError: The options of segmentation limit where images are segmented.
    """
    own = options.segment
    given = [f"{name}={value}" for name, value in (("roi", own.roi), ("mask", own.mask)) if value is not None]
    if given:
        raise UsageError(
            "pixels outside of a region are not computed, and would count as wrong",
            value=", ".join(given),
            advice="Name the region in the column roi of the list: then the pixels outside do not count",
        )
    return replace(options, segment=replace(own, tissue="none")) if own.tissue == "auto" else options


def _unfit(sample: DatasetSample, options: ScoreOptions, events: Events) -> MagnetError | None:
    """Return why no mask of this sample could be scored, by the headers of its files; None where one could."""
    try:
        check_inputs(
            sample.image,
            sample.label,
            roi=sample.roi,
            series=options.segment.series,
            corrections=sample.corrections,
            names=options.evaluation.names,
        )
    except MagnetError as error:
        events.failed(str(sample.image), error)
        return error
    return None


def _mask(folder: Path, method: Method, sample: DatasetSample) -> Path:
    return folder / method / f"{sample.name}.tif"


def read_files(data: Path, samples: Sequence[DatasetSample], options: ScoreOptions) -> list[Path]:
    """Return the files that a comparison of methods reads."""
    found = [path for one in samples for path in (one.image, one.label, one.roi, one.corrections) if path is not None]
    return [data, *found, *bundle_files(options.segment.weights)]


def _named(options: ScoreOptions, model: Model) -> ScoreOptions:
    if options.evaluation.names is not None:
        return options
    names = tuple(entry.name for entry in model.bundle.classes)
    return replace(options, evaluation=replace(options.evaluation, names=names))


def _score_unkept(
    sample: DatasetSample, model: Model, options: ScoreOptions, *, method: Method, events: Events
) -> ImageScore:
    """Score a mask in a temporary folder, which is gone before the next mask is made."""
    with scratch_folder("evaluate") as folder:
        target = Target(image=str(sample.image), mask=_mask(folder, method, sample))
        renamed = _Renamed(events, mask=target.mask, name=f"{method}, {sample.name}")
        return replace(_score(sample, target, model, options, method=method, events=renamed), mask=None)


class _Renamed(Events):
    """Passes events on, and replaces the path of a temporary mask by a name that the user knows."""

    def __init__(self, events: Events, *, mask: Path, name: str) -> None:
        self._events = events
        self._mask = str(mask)
        self._name = name

    def message(self, text: str) -> None:
        """Pass a message on, with the name in the mask's place."""
        self._events.message(text.replace(self._mask, self._name))

    def step(self, step: Step) -> None:
        """Pass the progress on."""
        self._events.step(step)

    def failed(self, image: str, error: MagnetError) -> None:
        """Pass the failure on."""
        self._events.failed(image, error)


def _score(
    sample: DatasetSample, target: Target, model: Model, options: ScoreOptions, *, method: Method, events: Events
) -> ImageScore:
    row = ImageScore(sample=sample, method=method, mask=target.mask)
    made = segment_target(target, model, options.segment.of_method(method, among=options.methods), events)
    if made.error is not None:
        return replace(row, error=made.error)
    try:
        counting = _counting(sample, options.evaluation)
        with _ImageData(target, model, options.segment) as image:
            found = evaluate_segmented(
                target.mask,
                sample.label,
                counting,
                roi=sample.roi,
                corrections=sample.corrections,
                find_valid=image.find_valid,
            )
    except MagnetError as error:
        events.failed(target.image, error)
        return replace(row, error=error)
    trim()
    cost = None if made.report is None else Cost.of(made.report)
    return replace(row, was_done=made.was_done, evaluation=found, cost=cost)


def _counting(sample: DatasetSample, options: EvaluationOptions) -> EvaluationOptions:
    """Return the options of a sample.

    A list may have polygons and masks of this program beside rasters whose stored values have a meaning of their own.
    """
    given = options.truth_values or {}
    own = {} if is_drawn(sample.label) else classes_of_values(sample.label, given, names=options.names)
    return replace(options, truth_values=own or None)


class _ImageData(Closing):
    """The data of a segmented image, read as its segmentation read it; the image is opened once it is needed.

    Args:
        target: The image and its mask.
        model: The model that segmented it.
        options: The options of the segmentation.
    """

    def __init__(self, target: Target, model: Model, options: SegmentOptions) -> None:
        self._target = target
        self._model = model
        self._options = options
        self._stack = ExitStack()

    def find_valid(self, box: Box) -> NDArray[np.bool_] | None:
        """Return which pixels of a box hold data in the bands that the network reads, `(height, width)`; None for all.

        Raises:
            SourceError: The image cannot be opened or decoded.
        """
        if self._opened is None:
            return None
        image, bands = self._opened
        return image.read([images.Request(pitch=LEVEL0, box=box, bands=bands)])[0].valid

    @cached_property
    def _opened(self) -> tuple[images.Image, tuple[int, ...]] | None:
        """The image and the positions of the bands that the network reads; None where every pixel holds data."""
        info = inspect_bands(self._target.image, self._options)
        if not info.has_mask:
            return None
        bands = check_bands(info, self._model.facts, self._options.bands)
        # The segmentation decoded the image in this folder, too, where it cannot be read by region.
        cache = images.CacheBudget.within(self._target.mask.parent)
        return self._stack.enter_context(images.reopen(info, cache=cache)), bands

    def close(self) -> None:
        """Close the image."""
        self._stack.close()
