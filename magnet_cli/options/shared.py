"""Groups of options that several commands have: the image's bands, the machine, one run, and pictures of the mask."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from magnet_cli.errors import UsageError
from magnet_cli.options.forms import BYTES, SWITCH, TEXT, WHOLE, choice
from magnet_cli.options.option import Form, ListOption, Option, OptionGroup, Shorthand
from magnet_cli.options.values import ValueRange, as_bands, parse_bands, parse_value_range, spell_value_range

Precision = Literal["float32", "bfloat16", "float16", "int8"]
AlphaRole = Literal["mask", "band"]
PrecisionOption = Literal["auto", "float32", "bfloat16", "float16", "int8"]
EngineName = Literal["torch", "onnxruntime", "openvino"]
EngineOption = Literal["auto", "torch", "onnxruntime", "openvino"]

WEIGHTS_HELP = "The model: the name of a bundle that comes with the program, or a bundle's folder."
ENGINE_HELP = (
    "Library that computes the networks: torch, onnxruntime or openvino. Default: torch, unless the bundle holds a "
    "measurement by which another one is faster and agrees."
)
ENGINE = choice(EngineOption)
BANDS = Form(
    parse=lambda text, _: parse_bands(text), spell=",".join, types=(tuple, list), convert=as_bands, metavar="LIST"
)
VALUE_RANGE = Form(
    parse=lambda text, _: parse_value_range(text), spell=spell_value_range, types=(ValueRange,), metavar="RANGE"
)
SERIES = Form(parse=lambda text, _: text, types=(int,), convert=str, metavar="N|NAME")


@dataclass(kw_only=True, unsafe_hash=True)
class BandOptions(OptionGroup, panel="What to read"):
    """Options for the image of a file that is read, the bands that a network gets, and the scaling of their values."""

    series: Option[str | None] = Option(
        None,
        SERIES,
        about="Image to read from a file that holds several, by number (from 0) or name, as info lists them. Default: "
        "the largest.",
    )
    """Number (the first is 0) or name of the image that is read from a file of several. None reads the largest."""
    domain: Option[str | None] = Option(
        None,
        TEXT,
        about="Kind of image, like aerial or histology. It overrides what the file says, so that a bundle for this "
        "kind is accepted.",
    )
    """Kind of image, in the words of a bundle's `domain`. None takes the kind that the file's reader recognises."""
    alpha: Option[AlphaRole | None] = Option(
        None,
        choice(AlphaRole),
        about="Meaning of a band that is flagged as alpha: mask (no data where it is 0) or band (for example "
        "near-infrared). Default: band where --bands names it, else mask.",
    )
    """Meaning of a band that is flagged as alpha. None reads it as a band where `bands` names it, else as a mask."""
    bands: ListOption[tuple[str, ...] | None] = ListOption(
        None,
        BANDS,
        about="The image's bands in the bundle's order, by number (from 1) or name, like 4,3,2. Default: match names, "
        "else the order.",
    )
    """Number (the first is 1) or name of the image's band for each of the bundle's bands. None matches their names,
    or, where these differ, their order."""
    value_range: Option[ValueRange | None] = Option(
        None,
        VALUE_RANGE,
        about="Stored values for the ends of the bundle's range: 0,10000; percentiles of each band: 2%,98%; or dtype. "
        "Default: the bundle's.",
    )
    """Stored values that are mapped to the ends of the bundle's range. None uses the ends of the range themselves."""


def gpu_names(text: str) -> str:
    """Return the names of the devices that `--gpu` stands for: `cuda:0` for `0`, and `cuda:0,cuda:1` for `0,1`.

    Raises:
        UsageError: The text is no list of numbers, or has a number twice.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(re.fullmatch(r"\d{1,3}", word) for word in words):
        raise UsageError(
            "--gpu is the number of a GPU from 0, or several with commas between them",
            value=repr(text),
            advice="Write --gpu 1 or --gpu 0,1,2",
        )
    numbers = [int(word) for word in words]
    if len(set(numbers)) < len(numbers):
        raise UsageError(
            "--gpu names each GPU once", value=repr(text), advice="Leave out the number that is written twice"
        )
    return ",".join(f"cuda:{number}" for number in numbers)


GPUS = Form(parse=lambda text, _: gpu_names(text), types=(), metavar="N")


@dataclass(kw_only=True, unsafe_hash=True)
class MachineOptions(OptionGroup, panel="Machine"):
    """Options for the device, its arithmetic, reading ahead, and the memory that may be used."""

    device: Option[str] = Option(
        "auto",
        TEXT,
        about="Where to compute: auto, cpu, cuda, cuda:N or mps.",
        shown="",
        shorthand=Shorthand(
            name="gpu",
            form=GPUS,
            about="Short for --device cuda:N. With segment, 0,1,2 is short for --devices cuda:0,cuda:1,cuda:2.",
            text=gpu_names,
            panel="Machine",
            rank=6,
        ),
    )
    precision: Option[PrecisionOption] = Option(
        "auto",
        choice(PrecisionOption),
        about="Number format of the networks' arithmetic. int8 needs --engine onnxruntime or openvino.",
    )
    num_workers: Option[int | None] = Option(
        None,
        WHOLE,
        about="Threads that read ahead; 0 reads between computations. Default: 2, or for a GPU the number of cores, at "
        "most 16.",
        least=0,
    )
    """Threads that read ahead. None means 2, or with an accelerator the number of cores, at most 16."""
    gpu_memory: Option[int | None] = Option(None, BYTES, about="Most memory of the device to use, like 4GiB.", rank=7)
    """Most memory of the device that may be used, in bytes. None leaves the limit to the program."""
    memory: Option[int | None] = Option(None, BYTES, about="Most memory of the host to use, like 8GiB.")
    """Most memory of the host that may be used, in bytes. None leaves the limit to the program."""


@dataclass(kw_only=True, unsafe_hash=True)
class EngineOptions(OptionGroup, panel="Machine"):
    """The library that computes the networks."""

    engine: Option[EngineOption] = Option("auto", ENGINE, about=ENGINE_HELP)
    """The library that computes the networks. `auto` takes PyTorch, unless the bundle holds a measurement by which
    another one is faster and gives the same labels."""


@dataclass(kw_only=True, unsafe_hash=True)
class PrivacyOptions(OptionGroup, panel="Outputs", of_one_run=True):
    """Options for what the outputs say about where the inputs lie. The mask does not depend on them."""

    private: Option[bool] = Option(
        default=False,
        form=SWITCH,
        about="Leave folders, and names of files other than the image and its mask, out of reports, pages, metadata "
        "and messages.",
    )
    """Whether outputs and messages name the image and its mask alone, without folders and other files."""


@dataclass(kw_only=True, unsafe_hash=True)
class RunOptions(OptionGroup, panel="Outputs", variables=False, of_one_run=True):
    """Options for files that an earlier run left behind."""

    overwrite: Option[bool] = Option(
        default=False, form=SWITCH, about="Replace an output that was made from other inputs or with other options."
    )
    resume: Option[bool] = Option(
        default=True,
        form=SWITCH,
        about="Continue an interrupted run where it stopped, or start again.",
        off="--no-resume",
    )


@dataclass(kw_only=True, unsafe_hash=True)
class ViewOptions(PrivacyOptions, panel="Outputs"):
    """Options for pictures of a finished mask. The mask does not depend on them."""

    overlay: Option[bool] = Option(
        default=False, form=SWITCH, about="Also draw the mask over the image, as NAME.overlay.png."
    )
    html: Option[bool] = Option(
        default=False, form=SWITCH, about="Also write a page for a browser, as NAME.html.", rank=8
    )
