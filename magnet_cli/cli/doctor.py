"""`magnet doctor` lists what this machine has, what is missing, and which features need it."""

from __future__ import annotations

import platform
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from magnet_cli import __version__
from magnet_cli.cli.outcome import Listing, command, print_lines, print_message
from magnet_cli.cli.parameters import Json, NoProgress
from magnet_cli.cli.volume import VOLUME
from magnet_cli.errors import DeviceError
from magnet_cli.system.memory import available_memory, format_bytes, total_memory
from magnet_cli.system.threads import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from magnet_cli.images.codecs import Decoder
    from magnet_cli.system.installation import NeededPackage

State = Literal["ok", "missing", "low"]

PURPOSES = {
    "bench": "the comparison of `magnet bench` with plain patching by MONAI",
    "bioimageio": "networks that a BioImage.IO description names",
    "crf": "magnet refine --method crf",
    "dask": "magnet segment --cluster, which shares a run between workers of Dask",
    "dicom": "DICOM slides of 16 bits or in JPEG-LS; other DICOM slides need no extra",
    "gdal": "JPEG 2000 files, mosaics (VRT) and the formats of geographic programs",
    "guided": "magnet refine --method guided",
    "onnx": "ONNX networks, and --engine onnxruntime",
    "openvino": "OpenVINO networks, and --engine openvino",
    "remote": "images behind https:// and s3:// addresses",
    "smp": "networks of segmentation-models-pytorch",
    "timm": "training with an encoder of timm",
    "torchvision": "segmentation networks of torchvision",
    "transformers": "networks of transformers, such as a SegFormer",
    "view": "magnet view, which shows an image and its mask in a browser",
}
"""Each extra is needed for this purpose. Extras for developers of the program, and former names, are left out."""
LEAST_FREE = 2 << 30
"""A folder with fewer free bytes is reported as low: journal and mask of a large slide take about as much."""
LEAST_MEMORY = 2 << 30
"""A machine with fewer bytes of available memory is reported as low."""
NO_COMMAND = ""
GET_TORCH = "https://pytorch.org/get-started/locally"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A finding is the result of one check of this machine."""

    part: str
    """The part of the machine or of the installation."""
    name: str
    state: State
    found: str
    needed_for: str = ""
    """The feature that does not work without the part; empty where the part is present."""
    command: str = NO_COMMAND
    """The command or the step that supplies the part; empty where the part is present."""
    required: bool = False
    """Whether no image can be segmented without the part."""


@command
def doctor(*, json: Json = False, no_progress: NoProgress = False) -> int:
    """Say what this machine has, what is missing, what that is needed for, and which command supplies it."""
    with Listing(json=json) as listing:
        from magnet_cli.cli.progress import showing

        # PyTorch alone takes a second or two to load.
        with showing("this machine", "checking", enabled=not no_progress):
            findings = list(examine())
        bad = [each for each in findings if each.required and each.state == "missing"]
        listing.more = {
            "version": __version__,
            "python": platform.python_version(),
            "ready": not bad,
            "findings": [asdict(each) for each in findings],
        }
        lines = finding_lines(findings)
        VOLUME.record(lines[-1])
        if not json:
            print_lines(*lines)
        if bad:
            print_message(f"magnet: do this first: {bad[0].command}")
    return DeviceError.exit_code if bad else 0


def finding_lines(findings: list[Finding]) -> list[str]:
    """Return findings as lines of text, grouped by their part, with the next step below each that is missing."""
    lines = [f"magnet {__version__}, Python {platform.python_version()}, {platform.platform(terse=True)}"]
    width = max(len(each.name) for each in findings)
    part = ""
    for each in findings:
        if each.part != part:
            part = each.part
            lines += ["", part]
        lines.append(f"  {each.state:7}  {each.name:{width}}  {each.found}")
        for word, text in (("needed for", each.needed_for), ("supply it", each.command)):
            if text and each.state != "ok":
                lines.append(f"  {'':7}  {'':{width}}  {word}: {text}")
    bad = sum(each.required and each.state == "missing" for each in findings)
    rest = sum(each.state == "missing" for each in findings) - bad
    verdict = "No image can be segmented yet." if bad else "Images can be segmented here."
    more = f" {rest} optional thing{'s'[: rest != 1]} missing; the lines above name their purposes." if rest else ""
    return [*lines, "", verdict + more]


def examine() -> Iterator[Finding]:
    """Check everything that a run can use, and yield the findings, part by part."""
    yield from _machine()
    yield from _torch()
    yield from _readers()
    yield from _packages()


def _machine() -> Iterator[Finding]:
    part = "Machine"
    cores = usable_cores()
    yield Finding(part=part, name="processor", state="ok", found=f"{cores} core{'s'[: cores != 1]} for this process")
    total, free = total_memory(), available_memory()
    known = "unknown" if total is None or free is None else f"{format_bytes(total)}, {format_bytes(free)} available"
    low = free is not None and free < LEAST_MEMORY
    yield Finding(
        part=part,
        name="memory",
        state="low" if low else "ok",
        found=known,
        needed_for="the network, and the windows that are read ahead" if low else "",
        command="close other programs; `magnet plan IMAGE` says what an image needs" if low else NO_COMMAND,
    )
    named = "name another folder in the variable TMPDIR"
    try:
        yield _disk("temporary files", Path(tempfile.gettempdir()), named)
    except FileNotFoundError:
        yield Finding(
            part="Machine",
            name="temporary files",
            state="missing",
            found="no folder that can be written",
            needed_for="images that cannot be read by region",
            command=named,
        )
    yield _disk("current folder", Path.cwd(), "write to another disk with -o")


def _disk(name: str, folder: Path, advice: str) -> Finding:
    free = shutil.disk_usage(folder).free
    low = free < LEAST_FREE
    return Finding(
        part="Machine",
        name=name,
        state="low" if low else "ok",
        found=f"{folder}, {format_bytes(free)} free",
        needed_for="the mask, its journal, and images that are decoded once before they are read" if low else "",
        command=f"free space there, or {advice}" if low else NO_COMMAND,
    )


def _torch() -> Iterator[Finding]:
    part, name = "PyTorch", "torch"
    try:
        from magnet_cli.models.accelerators import torch_facts

        facts = torch_facts()
    # A build that does not fit the machine may raise any error while it loads its libraries.
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        yield _lost(part, name, error, needed_for="every network", package="torch", required=True)
        return
    yield Finding(part=part, name=name, state="ok", found=f"{facts.version}, built for {facts.build}")
    for each in facts.accelerators:
        memory = "" if each.memory is None else f", {format_bytes(each.memory)}"
        yield Finding(part=part, name="GPU", state="ok", found=f"{each.name}{memory} (--device {each.device})")
    if facts.accelerators:
        return
    if not facts.driver:
        advice = "a machine with an NVIDIA GPU and its driver; a CPU computes the same masks, more slowly"
        found = "none: NVIDIA's driver is not loaded"
    elif facts.build.startswith("CUDA"):
        advice = f"a driver as new as {facts.build}, or a build of PyTorch for the driver here: {GET_TORCH}"
        found = f"none that PyTorch can use: the driver is loaded, and does not serve {facts.build}"
    else:
        advice = f"a build of PyTorch with CUDA: {GET_TORCH}"
        found = "none that PyTorch can use: its build is for CPUs alone"
    yield Finding(part=part, name="GPU", state="missing", found=found, needed_for="speed", command=advice)


def _readers() -> Iterator[Finding]:
    try:
        from magnet_cli.images import codecs
    except (ImportError, OSError) as error:
        yield _lost(
            "Readers", "tifffile", error, needed_for="TIFF files and all masks", package="tifffile", required=True
        )
        return
    readers: tuple[tuple[str, str, str, bool, Callable[[], Decoder]], ...] = (
        ("tifffile", "TIFF files and all masks", "imagecodecs", True, codecs.tiff_decoder),
        ("libvips", "PNG, JPEG and WebP", "pyvips pyvips-binary", False, codecs.picture_decoder),
        ("OpenSlide", "slides but SVS", "openslide-python openslide-bin", False, codecs.slide_decoder),
        ("GDAL", PURPOSES["gdal"], "magnet-cli[gdal]", False, codecs.map_decoder),
    )
    for name, needed_for, package, required, decoder in readers:
        try:
            found = decoder()
        except (ImportError, OSError) as error:
            yield _lost("Readers", name, error, needed_for=needed_for, package=package, required=required)
            continue
        yield _decoder(found, package)


def _decoder(found: Decoder, package: str) -> Finding:
    codecs = f" ({', '.join(found.has)})" if found.has else ""
    return Finding(
        part="Readers",
        name=found.name,
        state="missing" if found.lacks else "ok",
        found=f"{found.version}: {found.formats}{codecs}" + (", with codecs left out" if found.lacks else ""),
        needed_for=", ".join(found.lacks),
        command=f"{_pip(package)} --force-reinstall (the wheels have these codecs)" if found.lacks else NO_COMMAND,
    )


def _packages() -> Iterator[Finding]:
    from magnet_cli.system.installation import EVERY_RUN, needed_packages

    needed = needed_packages()
    if needed is None:
        yield Finding(
            part="Packages",
            name="magnet-cli",
            state="missing",
            found="the program runs from its sources and is not installed, so its packages cannot be listed",
            needed_for="this list",
            command=f"{sys.executable} -m pip install -e . (in the folder of the sources)",
        )
        return
    lost = [each for each in needed[EVERY_RUN] if not each.fits]
    for each in lost:
        yield Finding(
            part="Packages",
            name=each.name,
            state="missing",
            found=str(each),
            needed_for="every run",
            command=_pip(f"{each.name}{each.wanted}"),
            required=each.version is None,
        )
    if not lost:
        count = len(needed[EVERY_RUN])
        yield Finding(
            part="Packages", name="every run", state="ok", found=f"all {count} packages, of versions that fit"
        )
    for extra, purpose in PURPOSES.items():
        if extra in needed:
            yield _extra(extra, purpose, needed[extra])


def _extra(extra: str, purpose: str, packages: list[NeededPackage]) -> Finding:
    lost = [each for each in packages if not each.fits]
    return Finding(
        part="Extras",
        name=extra,
        state="missing" if lost else "ok",
        found=", ".join(map(str, lost or packages)),
        needed_for=purpose if lost else "",
        command=_pip(f"magnet-cli[{extra}]") if lost else NO_COMMAND,
    )


def _lost(part: str, name: str, error: Exception, *, needed_for: str, package: str, required: bool = False) -> Finding:
    reason = str(error).partition("\n")[0]
    return Finding(
        part=part,
        name=name,
        state="missing",
        found=reason or type(error).__name__,
        needed_for=needed_for,
        command=_pip(package),
        required=required,
    )


def _pip(packages: str) -> str:
    """Return the command that installs packages for the Python that runs this program."""
    return f"{sys.executable} -m pip install {' '.join(f'{word!r}' for word in packages.split())}"
