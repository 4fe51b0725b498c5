"""Groups of options that several commands have: the image's bands, the machine, one run, and pictures of the mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from magnet_cli.options.forms import BYTES, SWITCH, TEXT, WHOLE, choice
from magnet_cli.options.option import Form, ListOption, Option, OptionGroup, Shorthand
from magnet_cli.options.values import ValueRange, as_bands, parse_bands, parse_value_range, spell_value_range

Precision = Literal["float32", "bfloat16", "float16"]
AlphaRole = Literal["mask", "band"]
PrecisionOption = Literal["auto", "float32", "bfloat16", "float16"]

WEIGHTS_HELP = "The model: the name of a bundle that comes with the program, or a bundle's folder."
BANDS = Form(
    parse=lambda text, _: parse_bands(text), spell=",".join, types=(tuple, list), convert=as_bands, metavar="LIST"
)
VALUE_RANGE = Form(
    parse=lambda text, _: parse_value_range(text), spell=spell_value_range, types=(ValueRange,), metavar="RANGE"
)
SERIES = Form(parse=lambda text, _: text, types=(int,), convert=str, metavar="N|NAME")


@dataclass(kw_only=True, unsafe_hash=True)
class BandOptions(OptionGroup):
    """Which image of a file is read, which of its bands a network gets, and how their values are scaled."""

    series: Option[str | None] = Option(
        None,
        SERIES,
        about="Which image of a file that holds several, by number (from 0) or name, as info lists them. Default: the "
        "largest.",
        panel="What to read",
    )
    """Number (the first is 0) or name of the image that is read, of a file that holds several. None for the largest."""
    domain: Option[str | None] = Option(
        None,
        TEXT,
        about="What the image shows, like aerial or histology: insists on a bundle that the file's kind does not fit.",
        panel="What to read",
    )
    """What the image shows, in the words of a bundle's `domain`. None believes what the file says of itself."""
    alpha: Option[AlphaRole | None] = Option(
        None,
        choice(AlphaRole),
        about="What a band that is flagged as alpha is: mask (no data where it is 0) or band (near-infrared, say). "
        "Default: band where --bands names it, else mask.",
        panel="What to read",
    )
    """How a band that is flagged as alpha is read. None for a band where `bands` names it, else for a mask."""
    bands: ListOption[tuple[str, ...] | None] = ListOption(
        None,
        BANDS,
        about="The image's bands in the bundle's order, by number (from 1) or name: 4,3,2. Default: by name or count.",
        panel="What to read",
    )
    """For each of the bundle's bands one of the image's, by number (the first is 1) or name. None matches them."""
    value_range: Option[ValueRange | None] = Option(
        None,
        VALUE_RANGE,
        about="Stored values for the ends of the bundle's range: 0,10000; percentiles of each band: 2%,98%; or dtype. "
        "Default: the bundle's.",
        panel="What to read",
    )
    """The stored values that stand for the ends of the bundle's range. None takes them as the bundle has them."""


@dataclass(kw_only=True, unsafe_hash=True)
class MachineOptions(OptionGroup):
    """Where the program computes, and with how much memory."""

    device: Option[str] = Option(
        "auto",
        TEXT,
        about="Where to compute: auto, cpu, cuda, cuda:N or mps.",
        panel="Machine",
        shown="",
        shorthand=Shorthand(
            name="gpu",
            form=WHOLE,
            about="Short for --device cuda:N.",
            text="cuda:{}".format,
            panel="Machine",
            rank=6,
            least=0,
        ),
    )
    precision: Option[PrecisionOption] = Option(
        "auto", choice(PrecisionOption), about="Number format of the networks' arithmetic.", panel="Machine"
    )
    num_workers: Option[int | None] = Option(
        None,
        WHOLE,
        about="Threads that read ahead; 0 reads in turn. Default: 2, or for a GPU as many as there are cores, up to "
        "16.",
        panel="Machine",
        least=0,
    )
    """Threads that read ahead. None for 2, and for as many as there are cores, up to 16, beside an accelerator."""
    gpu_memory: Option[int | None] = Option(
        None, BYTES, about="Most memory of the device to use, like 4GiB.", panel="Machine", rank=7
    )
    """Bytes."""
    memory: Option[int | None] = Option(
        None, BYTES, about="Most memory of the host to use, like 8GiB.", panel="Machine"
    )
    """Bytes."""


@dataclass(kw_only=True, unsafe_hash=True)
class RunOptions(OptionGroup):
    """What happens to files that an earlier run left behind."""

    overwrite: Option[bool] = Option(
        default=False,
        form=SWITCH,
        about="Replace an output of other inputs or made with other options.",
        panel="Outputs",
        variable="",
        of_one_run=True,
    )
    resume: Option[bool] = Option(
        default=True,
        form=SWITCH,
        about="Go on where an interrupted run stopped, or begin again.",
        panel="Outputs",
        off="--no-resume",
        variable="",
        of_one_run=True,
    )


@dataclass(kw_only=True, unsafe_hash=True)
class ViewOptions(OptionGroup):
    """What shows a finished mask to people; the mask does not depend on it."""

    overlay: Option[bool] = Option(
        default=False,
        form=SWITCH,
        about="Also draw the mask over the image, as NAME.overlay.png.",
        panel="Outputs",
    )
    html: Option[bool] = Option(
        default=False,
        form=SWITCH,
        about="Also write a page to look at, as NAME.html.",
        panel="Outputs",
        rank=8,
    )
