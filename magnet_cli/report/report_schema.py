"""The keys of the JSON files beside masks: of the report of a segmentation, and of the list of all images of a run.

Pixels are pixels of level 0, sizes of memory and files are bytes, and times are seconds. The reference in the documents
is made of these classes, and a test compares them with files that runs have written.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

Counts = TypedDict("Counts", {"done": int, "already done": int, "failed": int, "waiting": int})
MEANINGS = {
    "pass": "The number of the pass; the first pass is 1.",
    "done": "Images whose masks this run made.",
    "already done": "Images whose masks were finished before.",
    "failed": "Images that failed.",
    "waiting": "Images that have not been begun.",
}
"""Meanings of keys that Python does not allow as names of fields, such as `pass`, and of those beside them."""


class SizeKeys(TypedDict):
    """A width and a height."""

    width: float
    """The width."""
    height: float
    """The height."""


class PartKeys(TypedDict):
    """A part of a run that several jobs share."""

    index: int
    """The number of the part; the first part is 0."""
    count: int
    """The number of all parts."""


class ProgramKeys(TypedDict):
    """The program that wrote a file."""

    name: str
    """The name of the program, `magnet`."""
    version: str
    """The version of the program."""


class MachineKeys(TypedDict):
    """The machine of a run."""

    system: str
    """The operating system, such as `Linux`."""
    processor: str
    """The kind of processor, such as `x86_64`."""
    threads: int
    """Threads of each operation. Another number may change the last bits of a probability."""


class SeriesKeys(TypedDict):
    """The image that was read of a file that holds several."""

    number: int
    """The number of the image in its file; the first image is 0."""
    name: str
    """The name of the image in its file."""


class PixelKeys(TypedDict):
    """The physical size of a pixel."""

    x: float
    """The width of a pixel."""
    y: float
    """The height of a pixel."""
    unit: Literal["um", "m"]
    """The unit of width and height: micrometres or metres."""


class InputKeys(TypedDict):
    """The image of a run."""

    path: str
    """The path or address, as it was given."""
    series: SeriesKeys | None
    """The image that was read, where the file holds several."""
    backend: str
    """The reader that opened the file."""
    size: SizeKeys
    """Width and height in pixels."""
    levels: int
    """The number of stored resolutions."""
    bands: list[str]
    """The names of the bands."""
    alpha: str | None
    """The meaning of a band that is flagged as alpha."""
    dtype: str
    """The type of the stored values, such as `uint8`."""
    crs: str | None
    """The reference system of a georeferenced image."""
    pixel: PixelKeys | None
    """The physical size of a pixel, where it is known."""
    objective: float | None
    """The magnification of a slide scanner's objective."""


class GroupKeys(TypedDict):
    """Units of work, each of which is retried and resumed as a whole."""

    computed: int
    """Groups that the last run computed."""
    resumed: int
    """Groups that earlier runs had finished."""


class MemoryKeys(TypedDict):
    """Memory of a run, in bytes."""

    host_budget: int
    """The limit, of `--memory` or of the machine."""
    host_planned: int
    """The most memory that the plan needs."""
    host_peak: int | None
    """The most memory that all processes of the run took together."""
    device_budget: int | None
    """The limit of `--gpu-memory`."""
    device_planned: int
    """The most memory of the device that the plan needs; 0 on the processor."""
    device_peak: NotRequired[dict[str, int]]
    """Memory measured on the device: `allocated`, `reserved`, `process`. It is left out on the processor."""


class ClassKeys(TypedDict):
    """One class of the mask. Its index in the mask is its place in the list."""

    name: str
    """The name of the class."""
    color: str
    """The colour of the class in the mask, `#RRGGBB`."""
    pixels: int
    """The number of pixels of the class."""
    share: float
    """The share of the computed pixels that have the class, 0 to 1."""
    area: float | None
    """The area of the class, where the size of a pixel is known."""
    unit: str | None
    """The unit of the area: `um2` or `m2`."""


class NotComputed(TypedDict):
    """The pixels that have label 255 in the mask."""

    pixels: int
    """Pixels without data, or outside the areas of the run."""


class BundleKeys(TypedDict):
    """The bundle that made the mask."""

    name: str
    """The name of the bundle."""
    digest: str
    """The SHA-256 of the bundle's description and weights."""
    licence: str
    """The licence of the bundle's weights."""


class BandKeys(TypedDict):
    """A band that the network got."""

    name: str
    """The name that the bundle gives the band."""
    band: int
    """The number of the image's band; the first band is 1."""
    of_image: str
    """The name of the image's band."""
    low: float
    """The stored value that stands for the low end of the bundle's range."""
    high: float
    """The stored value that stands for the high end of the bundle's range."""


class WorkingSize(TypedDict):
    """The physical size of a pixel that the network was given."""

    width: float
    """The width of a pixel."""
    height: float
    """The height of a pixel."""
    unit: Literal["um", "m"]
    """The unit of width and height: micrometres or metres."""


class OptionKeys(TypedDict):
    """The values that the mask depends on, after defaults were filled in, spelled as on the command line."""

    method: str
    """`--method`."""
    merge: str
    """`--merge`."""
    points: str
    """`--points`."""
    patches: str
    """`--patches`."""
    select: str
    """`--select`."""
    median: int
    """`--median`."""
    overlap: int
    """Overlap of neighbouring windows, in pixels of the network."""
    blend: str
    """`--blend`."""
    tta: str
    """`--tta`."""
    compat: str
    """`--compat`."""
    bands: list[BandKeys]
    """The bands that the network got, in its order."""
    preparation: NotRequired[dict[str, object]]
    """The stains that were found, with `--preparation`."""
    value_range: str
    """Where the range of the stored values came from."""
    scales: list[SizeKeys]
    """Sides of the windows of each stage, coarsest first, in pixels of the working grid."""
    batch: int
    """Patches of a forward pass in the last pass."""
    group: list[int]
    """Blocks that share forward passes, for each pass."""
    device: str
    """The device that computed."""
    precision: str
    """The precision of the networks."""
    engine: str
    """The engine that computed the networks."""
    working_pixel: SizeKeys
    """Size of a pixel of the working grid, in pixels of the image."""
    working_size: WorkingSize | None
    """The physical size of a pixel of the working grid, where it is known."""
    read_at: str | None
    """The option that chose the working grid: `--mpp`, `--gsd`, `--level` or `--mag` with its value."""
    probabilities: bool
    """Whether probabilities were kept."""
    uncertainty: bool
    """Whether the uncertainty was kept."""


class AreaKeys(TypedDict):
    """An area to which the run was limited."""

    kind: Literal["tissue", "roi", "mask"]
    """The option that limits the run to the area."""
    source: object
    """How tissue was found, the file of the region, or its box `[x, y, width, height]`."""
    share: float
    """The share of the image that the area covers, 0 to 1."""


class ReasonKeys(TypedDict):
    """Windows that were not computed, by reason."""

    nodata: int
    """The number of windows that hold no data."""
    outside: int
    """The number of windows outside the areas of the run."""
    unselected: int
    """The number of windows that scored lower than others, or than a threshold."""
    unpaid: int
    """The number of windows beyond the budget."""
    settled: int
    """The number of windows without a point that could be taken."""


class ChangeKeys(TypedDict):
    """Changes that a stage made in the windows that it computed, from a sample of their pixels."""

    labels: float
    """The share of pixels that got another class."""
    probabilities: float
    """The mean change of the probabilities, 0 to 1."""


class StageKeys(TypedDict):
    """One stage of a pass."""

    stage: int
    """The number of the stage; the coarsest stage is 1."""
    scale: SizeKeys
    """The sides of the stage's windows, in pixels of the working grid."""
    windows: int
    """Windows that cover the image."""
    windows_planned: int
    """Windows that the plan allowed at most."""
    windows_run: int
    """Windows that were computed."""
    windows_considered: int
    """Windows that hold data inside the areas of the run."""
    not_run: ReasonKeys
    """Windows that were not computed, by reason."""
    points: int
    """Pixels of the canvas that took the new result."""
    changed: ChangeKeys | None
    """The changes that the stage made. The first stage has nothing to change."""


class PassKeys(TypedDict("PassNumber", {"pass": int})):
    """One pass: consecutive stages that are computed together, block by block."""

    blocks: int
    """Blocks of the image, each of which is computed by itself."""
    batch: int
    """Patches of a forward pass. They may be fewer than in the pass before, where memory was short."""
    stages: list[StageKeys]
    """The stages of the pass, the coarsest first."""


class MapKeys(TypedDict):
    """A small map of the image for people, of at most 96 values along an axis."""

    stage: NotRequired[int]
    """The number of the stage that the map is about."""
    size: SizeKeys
    """Columns and rows of the map."""
    pixel: SizeKeys
    """Size of a value of the map, in pixels of the image."""
    cell: SizeKeys
    """Size of the own part of a window, in pixels of the image."""
    data: str
    """Base64 of zlib-compressed bytes, row by row: v stands for v / 254, and 255 for no data."""


class MapsKeys(TypedDict):
    """Small maps of what happened where."""

    stages: list[MapKeys]
    """For each stage the share of windows with data that it computed."""
    changes: list[MapKeys]
    """For each stage that could change something the share of pixels that got another class."""
    uncertainty: MapKeys | None
    """The mean uncertainty of the result: one minus the difference of the two largest probabilities."""


class PageSumKeys(TypedDict):
    """CRC-32 of the parts of a page of the mask's file."""

    tiles: str
    """The CRC-32 of each tile, packed as `lengths` is."""
    palette: int
    """The CRC-32 of the palette."""
    directory: int
    """The CRC-32 of the page's directory."""


class PageKeys(TypedDict):
    """One resolution of the mask."""

    columns: int
    """Tiles in a row."""
    first: int
    """Offset of the first tile in the file."""
    lengths: str
    """Bytes of each tile: Base64 of zlib-compressed, little-endian 32-bit numbers."""
    palette: list[int]
    """Offset and length of the palette."""
    crc32: PageSumKeys
    """Checksums, from which `magnet verify` names a damaged part."""


class MaskKeys(TypedDict):
    """The file of the mask, from the file itself."""

    bytes: int
    """The size of the file, in bytes."""
    sha256: str
    """The SHA-256 of the file."""
    pages: list[PageKeys]
    """The mask's resolutions, the finest first."""


class HashKeys(TypedDict):
    """SHA-256 of what the mask depends on. A run with equal hashes finds the mask finished."""

    input: str
    """The SHA-256 of the size, the tags and samples of the image."""
    bundle: str
    """The SHA-256 of the bundle."""
    options: str
    """The SHA-256 of the options on which the mask depends, and of the version of the arithmetic."""
    runtime: NotRequired[str]
    """The packages that ran a network from elsewhere, in words and not as a hash."""


class SegmentReport(TypedDict):
    """`NAME.json`, the report of `magnet segment`."""

    schema: int
    """The version of these keys."""
    program: ProgramKeys
    """The program that made the mask."""
    versions: dict[str, str]
    """Versions of Python and of the libraries that a mask may depend on, by name."""
    machine: MachineKeys
    """The machine that made the mask."""
    input: InputKeys
    """The image."""
    groups: GroupKeys
    """Units of work."""
    seconds: dict[str, float]
    """Time by activity: `wall` in all, `read`, `forward`, `refine`, `select`, `write`, and `idle` while it waited."""
    memory: MemoryKeys
    """Planned and measured memory."""
    classes: list[ClassKeys]
    """The classes, in the order of their indices in the mask."""
    not_computed: NotComputed
    """The pixels that have label 255."""
    notes: list[str]
    """Notes about the image, the bundle and the run, as they were printed."""
    bundle: BundleKeys
    """The bundle."""
    options: OptionKeys
    """The values that the mask depends on."""
    areas: list[AreaKeys]
    """Areas to which the run was limited; empty for the whole image."""
    passes: list[PassKeys]
    """The passes that ran networks, each with its number, its number of blocks, and its stages."""
    maps: MapsKeys
    """Small maps."""
    private: NotRequired[bool]
    """True where `--private` left names of folders and files out."""
    command: NotRequired[list[str]]
    """The words of the command that makes the mask again."""
    hashes: HashKeys
    """The hashes of what the mask depends on."""
    mask: MaskKeys
    """The file of the mask."""
    digest: str
    """SHA-256 of the report itself without this key."""


class ClassSum(TypedDict):
    """Pixels and area of a class."""

    name: str
    """The name of the class."""
    pixels: int
    """The number of pixels of the class."""
    area: float | None
    """The area of the class; null where the area in an image is unknown, or has another unit."""
    unit: str | None
    """The unit of the area."""


class ImageRow(TypedDict):
    """The outcome of one image of a run."""

    image: str
    """The path or address of the image."""
    mask: str
    """The path or address of the image's mask."""
    status: Literal["done", "already done", "failed", "waiting"]
    """The status of the image."""
    error: NotRequired[str]
    """The reason why the image failed."""
    exit_code: NotRequired[int]
    """The exit code of the failure."""
    seconds: NotRequired[float]
    """The time that the image's mask took."""
    classes: NotRequired[list[ClassSum]]
    """Pixels and area of each class."""
    not_computed: NotRequired[int]
    """Pixels with label 255."""


# The list has a key `list`, behind which the type of that name could not be written.
ClassSums = list[ClassSum]
ImageRows = list[ImageRow]


class RunReport(TypedDict):
    """`run.json`, the list of all images of a run over several."""

    schema: int
    """The version of these keys."""
    program: ProgramKeys
    """The program."""
    state: Literal["running", "finished", "stopped"]
    """`stopped` where the run was interrupted."""
    part: PartKeys | None
    """The part of a shared run that the file lists."""
    list: str
    """SHA-256 of the list of all images, on which all parts agree."""
    seconds: float
    """Time of the run; the sum of all parts where they are joined."""
    counts: Counts
    """Images of each status."""
    classes: ClassSums
    """Sums over all images."""
    images: ImageRows
    """A row for each image."""
    digest: str
    """SHA-256 of the file itself without this key."""
