"""Runs that several processes share: as parts that do not communicate, or as the workers of a cluster."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Literal, TypeVar

from magnet_cli.errors import UsageError
from magnet_cli.options.forms import FILE
from magnet_cli.options.option import Form, Option, OptionGroup, PathOption

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

T = TypeVar("T")
Count = int | Literal["auto"] | None

MOST_PARTS = 100_000
SHARING = "sharing"
"""Options that each say who shares a run have this rival."""
SLURM = "SLURM_ARRAY_TASK_ID"
BATCH = "AWS_BATCH_JOB_ARRAY_INDEX"
KUBERNETES = "JOB_COMPLETION_INDEX"
COUNTS = {SLURM: "SLURM_ARRAY_TASK_COUNT", BATCH: "AWS_BATCH_JOB_ARRAY_SIZE", KUBERNETES: None}
"""Environment variables that hold a job's index in its array, each with the one that holds the number of jobs."""
NO_ARRAY = "Submit an array of jobs (SLURM, AWS Batch or an indexed Kubernetes job), or give --num-parts and --part-id"


@dataclass(frozen=True, kw_only=True)
class JobPart:
    """One of several parts of a run."""

    index: int
    """The number of the part, from 0."""
    count: int
    """The number of all parts."""

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MOST_PARTS:
            raise UsageError(
                f"--num-parts is at least 1 and at most {MOST_PARTS}",
                value=self.count,
                advice=f"Choose --num-parts from 1 to {MOST_PARTS}",
            )
        if not 0 <= self.index < self.count:
            raise UsageError(
                "--part-id counts from 0 and is less than --num-parts",
                value=f"--part-id {self.index} with --num-parts {self.count}",
                advice=f"Give --part-id a number from 0 to {self.count - 1}",
            )

    def __str__(self) -> str:
        return f"part {self.index} of {self.count}"

    def deal(self, items: Sequence[T]) -> list[T]:
        """Return the part's share of a sorted list, dealt in turn: every item belongs to exactly one part."""
        return list(items[self.index :: self.count])

    def span(self, total: int) -> range:
        """Return the part's share of the numbers below `total`, which follow one another: neighbours share pixels."""
        return range(self.index * total // self.count, (self.index + 1) * total // self.count)


def _parse(text: str, option: str) -> int | Literal["auto"]:
    if text.strip().lower() == "auto":
        return "auto"
    if not re.fullmatch(r"\s*\d{1,9}\s*", text):
        raise UsageError(f"{option} is a whole number, or auto", value=repr(text), advice=f"Write {option} 1")
    return int(text)


def _parse_devices(text: str, option: str) -> tuple[str, ...]:
    """Parse names of devices with commas between them.

    Raises:
        UsageError: A word is no such name.
    """
    found: list[str] = []
    for word in text.replace(" ", "").lower().split(","):
        several = re.fullmatch(r"cpu:([1-9]\d{0,2})", word)
        if several is not None:
            found += ["cpu"] * int(several[1])
        elif re.fullmatch(r"\d{1,3}", word):
            found.append(f"cuda:{int(word)}")
        elif re.fullmatch(r"cuda:\d{1,3}|cpu|mps", word):
            found.append(word)
        else:
            raise UsageError(
                f"{option} names devices", value=repr(text), advice=f"Write {option} cuda:0,cuda:1 or {option} cpu:2"
            )
    return tuple(found)


ENCRYPT = (
    "Start scheduler and workers with --protocol tls and certificates, name these in Dask's configuration "
    "(distributed.comm.tls), and give tls://HOST:PORT; on one machine give the scheduler --host 127.0.0.1"
)


def local_workers(cluster: str) -> int | None:
    """Return the number of workers that `local:N` starts; None where the text is the address of a scheduler."""
    found = re.fullmatch(r"local:([1-9]\d{0,2})", cluster)
    return None if found is None else int(found[1])


def refuse_open_address(address: str, option: str) -> None:
    """Check that an address is local, or that access to it needs a certificate.

    Raises:
        UsageError: Whoever reaches the address can run code there.
    """
    scheme, _, place = address.partition("://")
    if scheme in ("tls", "inproc"):
        return
    host = place.rpartition(":")[0].strip("[]")
    try:
        is_loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if scheme != "tcp" or not is_loopback:
        raise UsageError(
            f"{option} takes a scheduler on this machine's loopback, or one with TLS: whoever reaches any other can "
            "run programs as you on every worker",
            value=address,
            advice=ENCRYPT,
        )


def _parse_cluster(text: str, option: str) -> str:
    found = text.strip()
    if local_workers(found) is not None:
        return found
    if not re.fullmatch(r"(tcp|tls)://[^\s/@]+:\d{1,5}", found):
        raise UsageError(
            f"{option} is local:N or the address of a Dask scheduler",
            value=repr(text),
            advice=f"Write {option} local:4, {option} tcp://127.0.0.1:8786 or {option} tls://host:8786",
        )
    refuse_open_address(found, option)
    return found


CLUSTER = Form(parse=_parse_cluster, types=(), metavar="ADDRESS")
DEVICES = Form(parse=_parse_devices, spell=",".join, types=(tuple, list), convert=tuple, metavar="LIST")
WHOLE_OR_AUTO = Form(parse=_parse, types=(Integral,), convert=int, metavar="N|auto")


@dataclass(kw_only=True, unsafe_hash=True)
class PartOptions(OptionGroup, panel="Several jobs or devices", of_one_run=True):
    """Options with which several jobs share the images of a run, or the blocks of one image."""

    num_parts: Option[Count] = Option(
        None,
        WHOLE_OR_AUTO,
        about="Share the run between N jobs, each started with the same words and its own --part-id. Several images "
        "are shared out, and the blocks of a single one. auto reads both from a job array of SLURM or AWS Batch.",
        least=1,
        rival=SHARING,
        partner="part_id",
    )
    """Number of parts of the run. None means that the run is not shared."""
    part_id: Option[Count] = Option(
        None,
        WHOLE_OR_AUTO,
        about="Number of this job's part, from 0. auto reads it from a job array of SLURM, AWS Batch or Kubernetes.",
        least=0,
        rival=SHARING,
        partner="num_parts",
    )
    """Number of the part that this run computes, from 0."""

    devices: Option[tuple[str, ...] | None] = Option(
        None,
        DEVICES,
        about="Start a process on each of several devices of this machine, and share the run between them: "
        "cuda:0,cuda:1, or for short 0,1; cpu:2 are two processes on the processor.",
        rival=SHARING,
    )
    """Devices of this machine that share the run, by name. None runs on one device, in this process."""

    cluster: Option[str | None] = Option(
        None,
        CLUSTER,
        about="Share the run with the workers of a Dask cluster: local:4 starts four workers on this machine, "
        "tcp://127.0.0.1:8786 or tls://host:8786 is a scheduler that runs already. Needs the extra dask.",
        rival=SHARING,
    )
    """Workers of Dask that share the run: `local:N`, or the address of a scheduler. None uses no cluster."""
    scheduler_file: PathOption[Path | None] = PathOption(
        None, FILE, about="File in which a Dask scheduler has left its address, in place of --cluster.", rival=SHARING
    )
    """JSON file that `dask scheduler --scheduler-file` has written."""

    def __post_init__(self) -> None:
        ways = {
            "--num-parts": self.num_parts is not None or self.part_id is not None,
            "--devices": self.devices is not None,
            "--cluster": self.cluster is not None,
            "--scheduler-file": self.scheduler_file is not None,
        }
        given = [name for name, is_given in ways.items() if is_given]
        if len(given) > 1 and given != ["--num-parts", "--devices"]:
            raise UsageError(
                "--num-parts, --devices, --cluster and --scheduler-file each say who shares a run",
                value=" and ".join(given),
                advice=f"Leave {' or '.join(given)} out",
            )
        if self.devices is not None and (self.num_parts is not None or self.part_id is not None):
            raise UsageError(
                "--devices shares a run between devices of one machine, and --num-parts between jobs",
                value="both",
                advice="Give --num-parts and --device to each job that you start yourself",
            )

    def part(self, environment: Mapping[str, str]) -> JobPart | None:
        """Return the part that the options name; None where the run is not shared.

        Args:
            environment: Environment variables. They are read for `auto` alone.

        Raises:
            UsageError: One of the two options is missing, or the environment does not say what `auto` needs.
        """
        if self.num_parts is None:
            if self.part_id is not None:
                raise UsageError(
                    "--part-id needs --num-parts",
                    value=f"--part-id {self.part_id}",
                    advice="Give --num-parts as well, or leave --part-id out",
                )
            return None
        index, count = self.part_id, self.num_parts
        if index is None and count != "auto":
            raise UsageError(
                "--num-parts needs --part-id",
                value=f"--num-parts {count}",
                advice=f"Give each job its own --part-id, 0 to {count - 1}, or --part-id auto in a job array",
            )
        return JobPart(
            index=index if isinstance(index, int) else _array_index(environment, counted=count == "auto"),
            count=count if isinstance(count, int) else _array_count(environment),
        )


def _variable(environment: Mapping[str, str]) -> str:
    """Return the variable that holds the job's index.

    Raises:
        UsageError: The environment has no such variable, or several.
    """
    found = [name for name in COUNTS if environment.get(name)]
    if len(found) == 1:
        return found[0]
    raise UsageError(
        "auto needs the environment of one job array",
        value=", ".join(found) or f"none of {', '.join(COUNTS)}",
        advice=NO_ARRAY,
    )


def _number(environment: Mapping[str, str], name: str, default: str | None = None) -> int:
    text = environment.get(name) or default
    if text is None or not re.fullmatch(r"\d{1,9}", text.strip()):
        raise UsageError(f"auto needs a whole number in {name}", value=text, advice=NO_ARRAY)
    return int(text)


def _array_index(environment: Mapping[str, str], *, counted: bool) -> int:
    """Return the index of the job.

    Args:
        environment: Environment variables.
        counted: Whether the number of parts is that of the array's tasks. Where the user gives it, the array may hold a
            few tasks that are submitted again, and its numbers are those of the parts.
    """
    name = _variable(environment)
    index = _number(environment, name)
    if name != SLURM or not counted:
        return index
    # SLURM's array may begin anywhere and have a step: --array=10-40:10 has the tasks 10, 20, 30 and 40.
    first, step = (
        _number(environment, f"SLURM_ARRAY_TASK_{word}", text) for word, text in (("MIN", "0"), ("STEP", "1"))
    )
    number, rest = divmod(index - first, max(1, step))
    if rest or number < 0:
        raise UsageError(
            "the tasks of the array are not evenly spaced",
            value=f"{SLURM}={index}",
            advice="Submit --array=0-N, or give --num-parts and --part-id",
        )
    return number


def _array_count(environment: Mapping[str, str]) -> int:
    name = _variable(environment)
    variable = COUNTS[name]
    if variable is None:
        raise UsageError(
            "a Kubernetes job does not say how many completions it has", value=name, advice="Give --num-parts as well"
        )
    count = _number(environment, variable)
    if name == SLURM:
        first = _number(environment, "SLURM_ARRAY_TASK_MIN", "0")
        last = _number(environment, "SLURM_ARRAY_TASK_MAX", str(first + count - 1))
        step = max(1, _number(environment, "SLURM_ARRAY_TASK_STEP", "1"))
        if (last - first) // step + 1 != count:
            # A few tasks of an array that are submitted again would otherwise count as all of it.
            raise UsageError(
                "the tasks of the array have gaps, so that their number is not that of all parts",
                value=f"{variable}={count}, tasks {first} to {last}",
                advice="Give --num-parts, the number of parts of the first submission, and --part-id",
            )
    return count
