"""Scenes of a folder or a list: found, measured, and opened in memory or on disk."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from magnet_cli import images
from magnet_cli.errors import OutputError, SourceError, UsageError
from magnet_cli.geometry import Box
from magnet_cli.images import CacheBudget, stem
from magnet_cli.images.dataset import read_dataset
from magnet_cli.images.inputs import is_image
from magnet_cli.images.labels import open_labels
from magnet_cli.models.description import CARD, DESCRIPTION
from magnet_cli.plan.bands import stored_as
from magnet_cli.system.disk import free_bytes
from magnet_cli.system.durable import writing
from magnet_cli.system.memory import format_bytes, parse_bytes
from magnet_cli.system.spool import Spool, SpooledRaster, raster_bytes
from magnet_cli.system.written_files import WrittenFile, refuse_collisions
from magnet_cli.train.config import DataConfig
from magnet_cli.train.destination import CHECKPOINT, TRAINING_FILES
from magnet_cli.train.scene_files import Pictures, labels_of, lay_out
from magnet_cli.train.scenes import LabelledScene
from magnet_cli.train.stores import BYTE_VALUES, halvings, histogram
from magnet_cli.train.streams import Original, Shelf, StreamedLabels, chunks, spool_pixels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from magnet_cli.models.bundle import Bundle
    from magnet_cli.models.network_spec import PixelSize
    from magnet_cli.train.scene_files import SceneLayout, ScenePart

    Pixels = NDArray[np.uint8]

DTYPE = "uint8"
"""The type of the pictures that trainings read."""
MOST_OTHER = 1.05
"""Largest ratio between the pixels of a scene and those of its bundle. Windows vary more than that, by [data]
jitter."""
UNREADABLE = frozenset({".bmp"})
"""Suffixes of pictures that cannot be read, and are refused rather than left out of a folder."""


def load_scenes(
    data: Path,
    config: DataConfig,
    *,
    work: Path | None = None,
    output: Path | None = None,
    names: Sequence[str] | None = None,
    bands: Sequence[str] | None = None,
    resolution: PixelSize | None = None,
    mean: Sequence[float] | None = None,
    message: Callable[[str], None] | None = None,
) -> list[LabelledScene]:
    """Return every scene, those to validate on included, below a folder or of a CSV file; see `DataConfig`.

    All are held in memory where that takes no more than `config.memory`. Else windows are read from the images, and
    what cannot be read from them quickly, labels and missing halvings, is decoded once into a file without a name.

    Args:
        data: The folder or CSV file.
        config: Names, grid and classes of the scenes.
        work: Folder for what is decoded once; made where missing. The system's own for temporary files where None.
        output: The folder of the bundle that is trained, whose files no scene may read.
        names: The names of the classes, by label, for polygons that name theirs. None where they are not known.
        bands: The names of the bundle's bands, by which those of images are found as `magnet segment` finds them. None
            reads the first three bands.
        resolution: The size of a pixel that the bundle states. None where it states none, or runs do not use it.
        mean: Mean of each band, 0 to 1, which pixels without data get, as in a run. They are 0 where None.
        message: Receives messages about the files that a user should read.

    Raises:
        SourceError: A file is missing, cannot be decoded, or does not fit its label map.
        UsageError: There is nothing to train on, the CSV file has no scene of a name, or the training would replace a
            file of a scene.
        OutputError: The disk has no room for what has to be decoded once.
    """
    layouts = list(layouts_in(data, config, names, bands))
    if not layouts:
        raise UsageError(
            "there is nothing to train on",
            file=data,
            advice="Name a list or a folder that has pictures with label maps",
        )
    refuse_twice([layout.name for layout in layouts], file=data)
    if mean is not None:
        filling = tuple(round(255 * value) for value in mean)
        layouts = [replace(one, filling=filling) if len(filling) == one.bands else one for one in layouts]
    if resolution is not None:
        for layout in layouts:
            refuse_other_pixels(layout, resolution)
    if message is not None:
        # One file may be named by several scenes.
        for note in dict.fromkeys(note for layout in layouts for note in layout.notes):
            message(note)
    if output is not None:
        refuse_replaced(layouts, data=data, folders=[output, *([] if work is None else [work])])
    work = Path(tempfile.gettempdir()) if work is None else work
    memory = parse_bytes(config.memory, option="[data] memory")
    needed = sum(map(held_bytes, layouts))
    if needed <= memory:
        return [read_scene(layout, config, cache=cache_in(work)) for layout in layouts]
    refuse_full_disk(layouts, work=work, needed=needed)
    with writing(work):
        work.mkdir(parents=True, exist_ok=True)
    spool, shelf = Spool(work), Shelf(memory)
    return [stream_scene(layout, config, spool=spool, shelf=shelf) for layout in layouts]


def scenes_for(
    bundle: Bundle,
    data: Path,
    config: DataConfig,
    *,
    work: Path,
    output: Path,
    message: Callable[[str], None] | None = None,
) -> list[LabelledScene]:
    """Return the scenes on which a network of a segmentation bundle is trained.

    The names of the classes, the bands and the size of a pixel are those of the bundle. For the other arguments and
    the errors, see `load_scenes`.
    """
    return load_scenes(
        data,
        config,
        work=work,
        output=output,
        names=[entry.name for entry in bundle.classes],
        bands=bundle.input.bands,
        resolution=bundle.resolution,
        mean=bundle.input.mean,
        message=message,
    )


def refuse_range(span: tuple[float, float]) -> None:
    """Check that pictures of 8 bits fit a bundle's range of stored values.

    Raises:
        UsageError: `magnet segment` would refuse the pictures of the training for this range.
    """
    if DTYPE not in stored_as(span):
        raise UsageError(
            f"a training reads pictures of 8 bits a band, stored as {DTYPE}, which 'magnet segment' would refuse for "
            "this range of the bundle",
            value=f"[bundle.input] range = [{span[0]:g}, {span[1]:g}]",
            advice="Write range = [0, 255]: values are divided by 255 before mean and std",
        )


def refuse_preparation(bundle: Bundle) -> None:
    """Check that runs of a bundle do not prepare the colours of images, which trainings read as they are stored.

    Raises:
        UsageError: The bundle's network would be trained on other colours than it gets in a run.
    """
    if bundle.preparation != "none":
        raise UsageError(
            "a training reads colours as they are stored, and runs of this bundle would prepare them",
            value=f"preparation = {bundle.preparation!r}",
            advice="Leave preparation out of the bundle",
        )


def refuse_other_pixels(layout: SceneLayout, resolution: PixelSize) -> None:
    """Check that the pixels of a scene have the size that its bundle states, where the pictures state theirs.

    Raises:
        SourceError: Runs would resample such a picture, and the network would see objects of another size.
    """
    for part in layout.parts:
        found = part.info.resolution
        if found is None:
            continue
        shares = (float(side / resolution.value) for side in (found.x, found.y))
        if found.unit != resolution.unit or any(max(share, 1 / share) > MOST_OTHER for share in shares):
            raise SourceError(
                f"a training reads pictures as they are, and 'magnet segment' reads them at the "
                f"{float(resolution.value):g} {resolution.unit} a pixel of [bundle] resolution",
                value=f"{float(found.x):.4g} x {float(found.y):.4g} {found.unit} a pixel",
                file=part.image,
                advice="Resample picture and label map to that size, or state the size of these pixels in resolution",
            )


def refuse_replaced(layouts: Sequence[SceneLayout], *, data: Path, folders: Sequence[Path]) -> None:
    """Check that no file of these folders that a training replaces is one of the scenes' files, or the list of them.

    Raises:
        UsageError: A file of the scenes would be replaced, by its name or through a link.
    """
    replaced = [entry for folder in folders if folder.is_dir() for entry in folder.iterdir() if is_replaced(entry)]
    refuse_collisions(
        [WrittenFile(path=path, kind="training", owner=str(data), is_ours=lambda _: True) for path in replaced],
        [data, *(file for layout in layouts for file in layout.files)],
    )


def is_replaced(entry: Path) -> bool:
    """Return whether a training may replace a file of its bundle's folder, or of its own.

    The configuration is no such file: the one that a bundle was made with is kept, so that it can be used again.
    """
    return entry.name in {DESCRIPTION, CARD, CHECKPOINT, *TRAINING_FILES} or entry.suffix == ".safetensors"


def layouts_in(
    data: Path, config: DataConfig, names: Sequence[str] | None = None, bands: Sequence[str] | None = None
) -> Iterator[SceneLayout]:
    """Yield the layout of every scene.

    Raises:
        SourceError: A file is missing, or does not fit the others of its scene.
        UsageError: A grid of crops is described, and the scenes are not folders of crops; or subfolders are named,
            and the scenes are those of a CSV file.
    """
    is_list = data.suffix.lower() == ".csv"
    if config.grid and (is_list or not config.scenes):
        raise UsageError(
            "[data] grid describes crops in the folders that [data] scenes names",
            value=f"grid = {list(config.grid)}, {'a CSV file' if is_list else 'no scenes'}",
            file=data,
            advice="Leave grid out, so that each picture is a scene, or name folders of crops in scenes",
        )
    if is_list and (config.images, config.labels) != (DataConfig.images, DataConfig.labels):
        raise UsageError(
            "[data] images and labels name subfolders of a folder, and a CSV file names each picture and label map",
            value=f"images = {config.images!r}, labels = {config.labels!r}",
            file=data,
            advice="Remove both keys",
        )
    if is_list:
        for sample in read_dataset(data, config.scenes):
            yield lay_out(
                sample.name,
                [(sample.image, sample.label)],
                roi=sample.roi,
                mask=sample.mask,
                corrections=sample.corrections,
                names=names,
                bands=bands,
            )
    elif config.scenes and config.grid:
        for name in config.scenes:
            yield lay_out(name, pairs_in(data / name, config), grid=config.grid, bands=bands)
    else:
        for name in config.scenes or ("",):
            prefix = f"{name}/" if name else ""
            for image, label in pairs_in(data / name, config):
                yield lay_out(f"{prefix}{stem(image)}", [(image, label)], bands=bands)


def is_raster(path: Path) -> bool:
    """Return whether a file is meant as a picture or label map; others lie beside them."""
    return not path.name.startswith(".") and (is_image(path) or path.suffix.lower() in UNREADABLE)


def pairs_in(folder: Path, config: DataConfig) -> list[tuple[Path, Path]]:
    """Return the pictures of a folder with their label maps, by stem, sorted by name.

    Raises:
        SourceError: A folder or a label map is missing, or a picture has several label maps.
    """
    try:
        images = sorted(path for path in (folder / config.images).iterdir() if is_raster(path))
        labels: defaultdict[str, list[Path]] = defaultdict(list)
        for path in sorted((folder / config.labels).iterdir()):
            if is_raster(path):
                labels[stem(path)].append(path)
    except OSError as exc:
        raise SourceError(
            f"needs the folders {config.images} and {config.labels}: {exc}",
            file=folder,
            advice=f"Make the folders {config.images} and {config.labels}, or name others in [data]",
        ) from exc
    for image in images:
        found = labels[stem(image)]
        if not found:
            raise SourceError(
                "this picture has no label map",
                file=image,
                advice=f"Put one into {folder / config.labels}; polygons (.geojson) are named as labels in a CSV file",
            )
        if len(found) > 1:
            raise SourceError(
                "this picture has several label maps",
                value=", ".join(path.name for path in found),
                file=image,
                advice="Move the wrong ones away, or name the right one in a CSV file",
            )
    return [(image, labels[stem(image)][0]) for image in images]


def cache_in(work: Path) -> CacheBudget:
    """Return all that is free where `work` lies, for pictures that cannot be read by region."""
    return CacheBudget(folder=work, max_bytes=free_bytes(work))


def held_bytes(layout: SceneLayout) -> int:
    """Return the memory that a scene takes: picture, halvings, which of their pixels hold data, labels and mask."""
    return (layout.bands + layout.masked) * sum(
        size.pixels for size in halvings(layout.size)
    ) + layout.maps * layout.size.pixels


def spooled_bytes(layout: SceneLayout) -> int:
    """Return the disk that a streamed scene takes at most: halvings that its image lacks, labels and mask."""
    sizes = halvings(layout.size)
    pixels = sum(raster_bytes(sizes[level], bands=layout.bands + layout.masked) for level in layout.spooled)
    return pixels + layout.maps * raster_bytes(layout.size, bands=1)


def refuse_full_disk(layouts: Sequence[SceneLayout], *, work: Path, needed: int) -> None:
    """Check that what has to be decoded once fits the disk.

    Raises:
        OutputError: The disk is too small.
    """
    # Pictures that cannot be read by region are decoded one at a time, so the largest one counts.
    disk = sum(map(spooled_bytes, layouts)) + max(layout.cache_bytes for layout in layouts)
    if disk > (free := free_bytes(work)):
        raise OutputError(
            f"drawing windows from these scenes needs up to {format_bytes(disk)} of disk for what is decoded once",
            value=f"{format_bytes(free)} free",
            file=work,
            advice=f"Free disk; or hold the scenes in memory, which takes [data] memory of {format_bytes(needed)}; "
            "pyramidal images need disk for their labels alone",
        )


def read_scene(layout: SceneLayout, config: DataConfig, *, cache: CacheBudget) -> LabelledScene:
    """Read a scene into memory.

    Raises:
        SourceError: A file of it changed while it was read.
    """
    states = layout.states()
    pixels = np.empty((layout.size.height, layout.size.width, layout.bands), np.uint8)
    labels = np.empty(pixels.shape[:2], np.uint8)
    valid = np.ones(pixels.shape[:2], np.bool_) if layout.masked else None
    with Pictures(layout, cache=cache) as pictures:
        for box in chunks(layout.size, pixel=layout.bands):
            pixels[box.slices], holding = pictures.part(box)
            if valid is not None and holding is not None:
                valid[box.slices] = holding
        for box, part in labels_of(layout, pictures, values=config.values, ignore=config.ignore):
            labels[box.slices] = part
    mask = read_mask(layout)
    # Pixels and labels are read one after the other, so files that changed in between would not fit together.
    states.refuse_change()
    if valid is not None and valid.all():
        valid = None
    return LabelledScene.of(
        layout.name, pixels=pixels, labels=labels, mask=mask, valid=valid, filling=layout.filling, inputs=states
    )


def read_mask(layout: SceneLayout) -> Pixels | None:
    """Return the mask of a scene in memory, where it has one.

    Raises:
        SourceError: The mask cannot be decoded.
    """
    if layout.mask is None:
        return None
    with open_labels(layout.mask) as mask:
        return mask.read(Box.whole(layout.size)).astype(np.uint8, copy=False)


def original_of(part: ScenePart, shelf: Shelf) -> Original:
    """Return the image of a part, from which windows are read."""
    return Original(shelf=shelf, path=part.image, bands=part.bands)


def stream_scene(layout: SceneLayout, config: DataConfig, *, spool: Spool, shelf: Shelf) -> LabelledScene:
    """Return a scene on disk; what cannot be read from its image is in the spool afterwards.

    Raises:
        SourceError: A file of it changed while it was read.
    """
    states = layout.states()
    counts, content = np.zeros(BYTE_VALUES, np.int64), hashlib.sha256()
    plane = SpooledRaster(spool, layout.size, bands=1)
    with Pictures(layout, cache=cache_in(spool.folder)) as pictures:
        for box, labels in labels_of(layout, pictures, values=config.values, ignore=config.ignore):
            counts += histogram(labels)
            content.update(labels.data)
            plane.write(box.y, labels[..., None] ^ np.uint8(config.ignore))
        whole = layout.whole
        source = pictures.part if whole is None else original_of(whole, shelf)
        pixels = spool_pixels(
            spool,
            layout.size,
            bands=layout.bands,
            levels=layout.spooled,
            level0=source,
            masked=layout.masked,
            filling=layout.filling,
        )
    mask = stream_mask(layout, spool)
    states.refuse_change()
    said = [str(layout.size), layout.bands, layout.fingerprint(), content.hexdigest()]
    if any(part.positions != tuple(range(layout.bands)) for part in layout.parts):
        said.append([part.positions for part in layout.parts])
    if layout.mask is not None:
        said.append(images.fingerprint(layout.mask))
    return LabelledScene(
        name=layout.name,
        pixels=pixels,
        labels=StreamedLabels(plane, ignore=config.ignore, counts=counts),
        digest=hashlib.sha256(json.dumps(said).encode()).hexdigest(),
        mask=mask,
        held=False,
        inputs=states,
    )


def stream_mask(layout: SceneLayout, spool: Spool) -> StreamedLabels | None:
    """Return the mask of a scene in the spool, where it has one.

    Raises:
        SourceError: The mask cannot be decoded.
    """
    if layout.mask is None:
        return None
    counts, plane = np.zeros(BYTE_VALUES, np.int64), SpooledRaster(spool, layout.size, bands=1)
    with open_labels(layout.mask) as mask:
        for box in chunks(layout.size, pixel=1):
            part = mask.read(box).astype(np.uint8, copy=False)
            counts += histogram(part)
            plane.write(box.y, part[..., None])
    return StreamedLabels(plane, ignore=0, counts=counts)


def refuse_twice(names: Sequence[str], *, file: Path) -> None:
    """Check that each scene has its own name, which folds and validation use.

    Raises:
        SourceError: Two scenes have the same name.
    """
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SourceError(
            "two scenes have one name",
            value=", ".join(twice),
            file=file,
            advice="Rename one scene, or give both a name in the column `name` of a CSV file.",
        )


def split_scenes(
    scenes: Sequence[LabelledScene], config: DataConfig
) -> tuple[list[LabelledScene], list[LabelledScene]]:
    """Return the scenes to train on, and those of every name in `config.validation`.

    Raises:
        UsageError: A name is unknown, or nothing is left to train on.
    """
    known = sorted({scene.name for scene in scenes})
    if unknown := [name for name in config.validation if name not in known]:
        raise UsageError(
            "[data] validation names scenes that the data do not have",
            value=", ".join(unknown),
            advice=f"Choose from {', '.join(known)}",
        )
    training = [scene for scene in scenes if scene.name not in config.validation]
    if not training:
        raise UsageError(
            "[data] validation leaves nothing to train on",
            value=", ".join(config.validation),
            advice="Name fewer scenes in validation",
        )
    return training, [scene for scene in scenes if scene.name in config.validation]
