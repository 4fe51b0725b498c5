"""Agreement of a mask with the truth: IoU and F1 by class, pixel and boundary accuracy, counted block by block."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from magnet_cli import images
from magnet_cli.areas import open_roi, specify_roi
from magnet_cli.errors import OutputError, SourceError, UsageError
from magnet_cli.evaluation.boundary import BoundaryCounts, add_block, boundary_radii
from magnet_cli.geometry import LEVEL0, Box
from magnet_cli.images.labels import open_labels, open_region
from magnet_cli.images.protocol import NODATA
from magnet_cli.images.urls import is_url
from magnet_cli.masks.our_files import is_mask
from magnet_cli.masks.output import OutputPaths
from magnet_cli.masks.report_file import is_report, read_report
from magnet_cli.masks.spec import parts
from magnet_cli.options.evaluate import LABELS, EvaluationOptions
from magnet_cli.options.regions import is_geojson, parse_counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from magnet_cli.geometry import Size
    from magnet_cli.images.labels import LabelImage
    from magnet_cli.options.evaluate import RadiusRule

    FindValid = Callable[[Box], NDArray[np.bool_] | None]

BLOCK = 2048
"""Side in pixels of the part that is in memory at a time, with its rim, unless the rim alone takes most of it."""
SMALLEST_BLOCK = 512
LARGEST_REACH = 1536
"""Widest rim of a block that fits in memory. Radii that grow with the image stay below it while width and height add up
to less than half a million pixels; larger images have no such accuracy."""


def unlabelled(options: EvaluationOptions) -> tuple[int, ...]:
    """Return every value of the truth that does not count, sorted."""
    return tuple(sorted({*options.ignore, NODATA}))


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """The counts of one class over the labelled pixels of the truth."""

    index: int
    name: str
    truth: int
    mask: int
    both: int
    in_mean: bool

    @property
    def iou(self) -> float | None:
        """Intersection over union; None where truth and mask lack the class."""
        union = self.truth + self.mask - self.both
        return self.both / union if union else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall, the Dice coefficient; None where truth and mask lack the class."""
        return 2 * self.both / (self.truth + self.mask) if self.truth + self.mask else None


class ClassMeans:
    """Means over classes."""

    classes: tuple[ClassScore, ...]

    @property
    def miou(self) -> float | None:
        """Mean IoU over the classes that the truth or the mask has; None where all of them are excluded."""
        return mean_iou(self.classes)

    @property
    def f1(self) -> float | None:
        """Mean F1 over the same classes (macro)."""
        return _mean(entry.f1 for entry in self.classes if entry.in_mean)


def mean_iou(classes: Iterable[ClassScore]) -> float | None:
    """Return the mean IoU over the classes that count, or None where there are none."""
    return _mean(entry.iou for entry in classes if entry.in_mean)


def _mean(scores: Iterable[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return float(np.mean(known)) if known else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation(ClassMeans):
    """The agreement of a mask with the truth."""

    size: Size
    classes: tuple[ClassScore, ...]
    labelled: int
    """The number of labelled pixels of the truth, which are those that count."""
    right: int
    not_computed: int
    """Labelled pixels that are 255 in the mask; they count as wrong."""
    confusion: NDArray[np.int64]
    """`(classes, classes + 1)`, labelled pixels by true and by given class in the order of `classes`; the last column
    counts those that the mask gives no class: 255 or an ignored value."""
    boundary: BoundaryCounts | None
    """The boundary accuracy within the fixed radii; None where not requested."""
    boundary_beside: BoundaryCounts | None
    """The boundary accuracy within radii growing with the image; None where not requested, or a radius is too large."""
    notes: tuple[str, ...]

    @property
    def accuracy(self) -> float:
        """Share of the labelled pixels that are right."""
        return self.right / self.labelled

    def describe(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        boundary, beside = self.boundary, self.boundary_beside
        return {
            "size": {"width": self.size.width, "height": self.size.height},
            "labelled": self.labelled,
            "not_computed": self.not_computed,
            "pixel_accuracy": self.accuracy,
            "miou": self.miou,
            "f1": self.f1,
            "classes": [{**vars(entry), "iou": entry.iou, "f1": entry.f1} for entry in self.classes],
            "confusion": self.confusion.tolist(),
            "mba": boundary and boundary.mba,
            **({f"mba_{beside.rule}": beside.mba} if beside else {}),
            "boundary": {counts.rule: counts.describe() for counts in (boundary, beside) if counts} or None,
            "notes": list(self.notes),
        }


class Confusion:
    """Counts of pixels by the label of the truth and the label of the mask."""

    def __init__(self) -> None:
        self.counts = np.zeros((LABELS, LABELS), np.int64)
        """The counts, `(truth, mask)`."""

    def add(self, truth: NDArray[np.uint8], mask: NDArray[np.uint8]) -> None:
        """Count pixels of two arrays of one shape."""
        # One count of pairs is faster than a comparison for each class, and gives the table of all confusions as well.
        pairs = truth.ravel().astype(np.intp) * LABELS + mask.ravel()
        self.counts += np.bincount(pairs, minlength=LABELS * LABELS).reshape(LABELS, LABELS)

    def pool(self, found: Evaluation) -> None:
        """Count the labelled pixels of an image that was evaluated with the same options."""
        labels = [entry.index for entry in found.classes]
        # The last column of an image's table holds its pixels without a class, which `NODATA` stands for here.
        self.counts[np.ix_(labels, [*labels, NODATA])] += found.confusion

    def table(self, classes: tuple[ClassScore, ...], options: EvaluationOptions) -> NDArray[np.int64]:
        """Return the counts `(classes, classes + 1)`, as in `Evaluation.confusion`."""
        labels = [entry.index for entry in classes]
        known = self.counts[labels]
        return np.column_stack([known[:, labels], known[:, list(unlabelled(options))].sum(axis=1)])

    def scores(self, options: EvaluationOptions, *, names: Mapping[int, str] | None) -> tuple[ClassScore, ...]:
        """Return the classes that are named, or that the labelled pixels of the truth or the mask have."""
        counts = self._labelled(options)
        truth, mask, both = counts.sum(axis=1), counts.sum(axis=0), counts.diagonal()
        names = names or {}
        wanted = set(names) | set(np.flatnonzero(truth + mask).tolist())
        return tuple(
            ClassScore(
                index=label,
                name=names.get(label, str(label)),
                truth=int(truth[label]),
                mask=int(mask[label]),
                both=int(both[label]),
                # A class that neither raster has would have an IoU of 0 / 0. It is left out of the mean.
                in_mean=label not in options.exclude and bool(truth[label] + mask[label]),
            )
            for label in sorted(wanted - set(unlabelled(options)))
        )

    def totals(self, options: EvaluationOptions) -> tuple[int, int]:
        """Return the number of labelled pixels, and of those that are right."""
        counts = self._labelled(options)
        return int(counts.sum()), int(np.trace(counts))

    def not_computed(self, options: EvaluationOptions) -> int:
        """Return the number of labelled pixels that are 255 in the mask."""
        return int(self._labelled(options)[:, NODATA].sum())

    def _labelled(self, options: EvaluationOptions) -> NDArray[np.int64]:
        counts = self.counts.copy()
        # Only rows are cleared: a pixel whose mask has 255 and whose truth is known counts, as wrong.
        counts[list(unlabelled(options))] = 0
        return counts


def evaluate(
    mask: str | Path,
    truth: str | Path,
    options: EvaluationOptions | None = None,
    *,
    roi: Box | str | Path | None = None,
    corrections: str | Path | None = None,
) -> Evaluation:
    """Compare two rasters of class indices; memory does not grow with them.

    Args:
        mask: The predicted mask; 255 and the ignored values are no class, and wrong where the truth is labelled.
        truth: The true classes: a raster, or a GeoJSON file of polygons with classes, such as the corrections that were
            drawn in the page of `magnet view`. Pixels in no polygon do not count.
        options: The options that name what counts.
        roi: The region whose pixels count: a `Box` or `x,y,width,height` in pixels of the mask, a GeoJSON file of
            polygons, or a raster of the mask's size, whose first band is not zero inside. None counts all pixels.
        corrections: A GeoJSON file of polygons whose classes count in place of those of the truth.

    Raises:
        SourceError: A file is missing or damaged, or has another size or place, or a label that is no class; the region
            lies outside the mask; nothing is labelled; or a file changed while it was read.
        UsageError: A class to be left out of the mean is none of the mask's, the region's text has no known form, or
            stored values of a truth that is no raster are given a meaning.
    """
    return evaluate_segmented(mask, truth, options, roi=roi, corrections=corrections)


def evaluate_segmented(
    mask: str | Path,
    truth: str | Path,
    options: EvaluationOptions | None = None,
    *,
    roi: Box | str | Path | None = None,
    corrections: str | Path | None = None,
    find_valid: FindValid | None = None,
) -> Evaluation:
    """Compare a mask of a whole image with the truth: where the image has no data, nothing is right or wrong.

    Args:
        mask: See `evaluate`, as for the other arguments and the errors.
        truth: The true classes.
        options: The options that name what counts.
        roi: The region whose pixels count.
        corrections: Polygons whose classes count in place of those of the truth.
        find_valid: Returns which pixels of a box hold data in the image of the mask, or None where all do; it is called
            only where the mask has no class. Without it every 255 of the mask counts as wrong.
    """
    options = options or EvaluationOptions()
    refuse_values_of_polygons(options, [truth])
    with ExitStack() as stack:
        given = stack.enter_context(open_labels(mask))
        true = _opened_truth(truth, corrections, given, options, stack)
        # Only an input that can be opened has a state; what is no raster gets the message of its reader.
        inputs = images.InputStates.of((mask, truth, corrections))
        inside, notes = _counted(roi, given.info, stack)
        pair = _Pair(
            mask=given,
            truth=true,
            inside=inside,
            options=options,
            truth_is_drawn=is_drawn(truth),
            notes=notes,
            find_valid=find_valid,
        )
        options.check_excluded(pair.names)
        found = pair.compare()
    inputs.refuse_change()
    return found


class TrueLabels(Protocol):
    """The true classes of an image, read by region."""

    @property
    def path(self) -> str:
        """The path as the user gave it."""

    @property
    def size(self) -> Size:
        """The size in pixels."""

    @property
    def nodata(self) -> float | None:
        """The value that marks a missing pixel."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Messages that a user should read about the file."""

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Return the labels of a box, `(height, width)`, 255 where there is none."""


def _opened_truth(
    truth: str | Path, corrections: str | Path | None, given: LabelImage, options: EvaluationOptions, stack: ExitStack
) -> TrueLabels:
    """Open the true classes of a mask, with corrections laid over them.

    Raises:
        SourceError: A file cannot be read, or does not fit the mask.
    """
    names, image_of = options.names or given.names, partial(_image_of, given.info.path)
    true = None
    if not is_drawn(truth):
        true = stack.enter_context(open_labels(truth, values=options.truth_values or {}))
        _check_fits(given.info, true.info)
        if corrections is None:
            return true
    from magnet_cli.areas.drawn_labels import DrawnLabels  # noqa: PLC0415 - shapely is needed with polygons alone

    drawn = DrawnLabels(truth, given.info, names, identity=image_of) if true is None else true
    return drawn if corrections is None else DrawnLabels(corrections, given.info, names, below=drawn, identity=image_of)


def _image_of(mask: str | Path) -> str | None:
    """Return the identity of the image of a mask as a word; None where the mask has no report that states it.

    Raises:
        SourceError: The report is damaged.
    """
    if is_url(str(mask)) or not is_mask(Path(mask)):
        return None
    beside = OutputPaths.of(Path(mask)).report
    try:
        hashes = read_report(beside).get("hashes") if is_report(beside) else None
    except OutputError as error:
        raise SourceError(error.rule, value=error.value, file=beside, advice=error.advice) from error
    found = images.ImageIdentity.noted(hashes) if isinstance(hashes, dict) else None
    return None if found is None else str(found)


def _counted(
    roi: Box | str | Path | None, info: images.ImageInfo, stack: ExitStack
) -> tuple[Callable[[Box], NDArray[np.bool_]] | None, tuple[str, ...]]:
    """Open the region whose pixels count.

    Returns:
        A function that returns which pixels of a box count, or None where all do; and notes on the region.
    """
    if roi is None:
        return None, ()
    where = parse_counted(roi) if isinstance(roi, str) else roi
    if isinstance(where, Box) or (isinstance(where, Path) and is_geojson(where.name)):
        spec = specify_roi(where, info)
        area = open_roi(spec, info)
        return (lambda box: area.mask(box, LEVEL0)), spec.notes
    raster = stack.enter_context(open_region(where))
    _check_fits(raster.info, info)
    return raster.read_nonzero, ()


def check_inputs(
    image: str | Path,
    truth: str | Path,
    *,
    roi: str | Path | None,
    series: str | None = None,
    corrections: str | Path | None = None,
    names: Sequence[str] | None = None,
) -> None:
    """Refuse files whose mask could not be compared with the truth. No mask is needed, and no pixel is read.

    Args:
        image: The image that is to be segmented; its mask has its size.
        truth: The true classes.
        roi: The region that counts.
        series: Name or number of the segmented image, where the file holds several.
        corrections: Polygons whose classes count in place of those of the truth.
        names: The names of the classes, by label.

    Raises:
        SourceError: A file cannot be read, is of the wrong kind, or has another size or place than the image.
    """
    info = images.inspect(image, series=series)
    polygons = [path for path in (truth, corrections) if path is not None and (path is corrections or is_drawn(path))]
    if polygons:
        from magnet_cli.areas.drawn_labels import DrawnLabels  # noqa: PLC0415 - shapely is needed with polygons alone

        for path in polygons:
            DrawnLabels(path, info, names, identity=lambda: str(images.ImageIdentity.of(info)))
    if not is_drawn(truth):
        with open_labels(truth) as labels:
            _check_fits(labels.info, info)
    if roi is not None:
        with open_region(roi) as region:
            _check_fits(region.info, info)


def refuse_values_of_polygons(options: EvaluationOptions, truths: Sequence[str | Path]) -> None:
    """Refuse to give stored values a meaning where no truth is a raster.

    Raises:
        UsageError: All truths are polygons, and values have a meaning.
    """
    if options.truth_values and truths and all(is_drawn(truth) for truth in truths):
        raise UsageError(
            "--truth-values says what the stored values of a raster mean, and the truth is a file of polygons",
            value=truths[0],
            advice="Leave the option out; the class of a polygon is its property `class`, `classification` or `label`",
        )


def is_drawn(truth: str | Path) -> bool:
    """Return whether true classes are polygons, by the name of their file."""
    return is_geojson(str(truth))


def _check_fits(found: images.ImageInfo, other: images.ImageInfo) -> None:
    """Check that two rasters are of the same picture, by their sizes and georeferences."""
    advice = "Give rasters of one picture; labels are enlarged or shrunk by the nearest pixel"
    images.check_fits(found, other, rule=f"the size must be that of {other.path}, {other.size}", advice=advice)


@dataclass(frozen=True, kw_only=True)
class _Pair:
    mask: LabelImage
    truth: TrueLabels
    inside: Callable[[Box], NDArray[np.bool_]] | None
    """Returns which pixels of a box count, `(height, width)`. None counts all."""
    options: EvaluationOptions
    truth_is_drawn: bool
    """Whether the truth is polygons alone."""
    notes: tuple[str, ...] = ()
    """Notes on the region whose pixels count."""
    find_valid: FindValid | None = None
    """Returns which pixels of a box hold data in the image of the mask; None where the image is not known."""

    @property
    def names(self) -> tuple[str, ...] | None:
        """The names of the classes, as given or as the mask has them."""
        return self.options.names or self.mask.names

    def compare(self) -> Evaluation:
        size = self.truth.size
        boundary = self._boundary(size)
        reach = max((counts.reach for counts in boundary), default=0)
        confusion = Confusion()
        for part in parts(Box.whole(size), block_side(reach)):
            self._block(part.box, confusion, boundary, reach=reach)
        return self._result(confusion, boundary)

    def _boundary(self, size: Size) -> tuple[BoundaryCounts, ...]:
        """Return the accuracies of the fixed radii first, if any; radii that are too large are left out."""
        wanted = self.options.boundary
        rules: tuple[RadiusRule, ...] = () if wanted is None else ("fixed",) if wanted == "fixed" else ("fixed", wanted)
        counts = (BoundaryCounts(radii=boundary_radii(size, rule), rule=rule) for rule in rules)
        return tuple(one for one in counts if one.reach <= LARGEST_REACH)

    def _block(self, box: Box, confusion: Confusion, boundary: tuple[BoundaryCounts, ...], *, reach: int) -> None:
        mask = self.mask.read(box)
        seen = box.grown(reach).intersection(Box.whole(self.truth.size))
        truth = self.truth.read(seen)
        inner = box.shifted(x=-seen.x, y=-seen.y)
        labelled = ~np.isin(truth, unlabelled(self.options))
        counted = labelled[inner.slices]
        if self.inside is not None:
            counted = counted & self.inside(box)
        if self.find_valid is not None:
            # Only these pixels may lack data, and finding out takes a decoding of the image.
            missing = counted & (mask == NODATA)
            if missing.any():
                valid = self.find_valid(box)
                counted = counted if valid is None else counted & ~(missing & ~valid)
        own = truth[inner.slices]
        confusion.add(own[counted], mask[counted])
        if boundary:
            add_block(boundary, truth, labelled=labelled, inner=inner, right=own == mask, counted=counted)

    def _result(self, confusion: Confusion, boundary: tuple[BoundaryCounts, ...]) -> Evaluation:
        options = self.options
        labelled, right = confusion.totals(options)
        # A truth that stores 255 for its only class looks unlabelled, which the advice explains.
        if not labelled:
            raise SourceError("no pixel of the truth is labelled", file=self.truth.path, advice=self._advice())
        classes = confusion.scores(options, names=dict(enumerate(self.names or ())))
        if options.names is not None and classes[-1].index >= len(options.names):
            stray = classes[-1]
            file = self.truth.path if stray.truth else self.mask.path
            rule = f"a label must be below {len(options.names)}, the number of classes, or ignored"
            advice = "Name all classes"
            if stray.truth:
                advice += f", or add --ignore {stray.index} where it means unlabelled"
            raise SourceError(rule, value=stray.index, file=file, advice=advice)
        return Evaluation(
            size=self.truth.size,
            classes=classes,
            labelled=labelled,
            right=right,
            not_computed=confusion.not_computed(options),
            confusion=confusion.table(classes, options),
            boundary=boundary[0] if boundary else None,
            boundary_beside=boundary[1] if len(boundary) > 1 else None,
            notes=(*self._notes(), *self._doubts(classes), *self._left_out(len(boundary))),
        )

    def _notes(self) -> tuple[str, ...]:
        return (*self.notes, *self.mask.notes, *self.truth.notes)

    def _doubts(self, classes: tuple[ClassScore, ...]) -> tuple[str, ...]:
        return (
            *self._doubts_excluded(classes),
            *self._doubts_nodata(),
            *self._doubts_labelled(classes),
            *self._doubts_stray(classes),
        )

    def _doubts_nodata(self) -> tuple[str, ...]:
        nodata = self.truth.nodata
        if nodata is None or nodata not in range(NODATA):
            return ()
        return (f"where {nodata:g} is a class of {self.truth.path}, add --truth-values {nodata:g}={nodata:g}",)

    def _doubts_excluded(self, classes: tuple[ClassScore, ...]) -> tuple[str, ...]:
        missing = sorted(set(self.options.exclude) - {entry.index for entry in classes})
        return tuple(f"class {label} is left out of the mean, and no pixel that counts has it" for label in missing)

    def _doubts_labelled(self, classes: tuple[ClassScore, ...]) -> tuple[str, ...]:
        stores_values = not (self.truth_is_drawn or self.options.truth_values)
        if [entry.index for entry in classes if entry.truth] != [0] or not stores_values:
            return ()
        return (f"{self.truth.path}: class 0 alone is labelled. {self._advice()}",)

    def _doubts_stray(self, classes: tuple[ClassScore, ...]) -> tuple[str, ...]:
        # Truths that keep 0 for unlabelled pixels number their classes from 1, and show it by one label too many.
        count = len(self.names or classes)
        strays = [entry.index for entry in classes if self.names and entry.truth and entry.index >= count]
        if not strays:
            return ()
        one = len(strays) == 1
        which = f"label {strays[0]} is" if one else f"labels {', '.join(map(str, strays))} are"
        ignored = " ".join(f"--ignore {label}" for label in strays)
        text = (
            f"{self.truth.path}: {which} no class of the mask, whose classes are 0 to {count - 1}, and "
            f"{'lowers' if one else 'lower'} the mean by an IoU of 0. Add {ignored} where "
            f"{'it means' if one else 'they mean'} unlabelled, or --truth-values where the truth "
            "numbers its classes in another way"
        )
        return (text,)

    def _left_out(self, kept: int) -> tuple[str, ...]:
        wanted = self.options.boundary
        if wanted in (None, "fixed") or kept > 1:
            return ()
        return (f"no boundary accuracy within the {wanted} radii: they grow beyond {LARGEST_REACH} pixels here",)

    def _advice(self) -> str:
        if self.truth_is_drawn:
            return "Draw polygons that cover centres of pixels, inside the region that counts, of classes that count"
        return "Where 255 is a class, add --truth-values 255=1"


def block_side(reach: int) -> int:
    """Return the side of the blocks that are read one after another, without their rim of at most `LARGEST_REACH`."""
    return max(SMALLEST_BLOCK, BLOCK - 2 * reach)
