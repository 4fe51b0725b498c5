"""A bench as one HTML file that needs nothing beside it."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from magnet_cli.bench.charts import memory_chart, speed_chart
from magnet_cli.bench.result import MEGA, quote
from magnet_cli.bench.table import HEAD, SPLIT_HEAD, cells, split_cells, without_empty
from magnet_cli.system.characters import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magnet_cli.bench.conditions import Setting
    from magnet_cli.bench.result import Row

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #333; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
blockquote { border-left: .3rem solid #0072B2; margin: 1rem 0; padding: .2rem 1rem; font-size: 1.1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0; font-size: .86rem; }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid #e4e4e4; vertical-align: top; }
th:nth-child(-n+2), td:nth-child(-n+2), dl { text-align: left; } td:nth-child(-n+3) { white-space: nowrap; }
figure { display: inline-block; margin: 0; max-width: 36rem; } svg { max-width: 100%; height: auto; }
dl { display: grid; grid-template-columns: max-content 1fr; column-gap: 1.2rem; }
dt { font-weight: 600; } dd { margin: 0; }
"""
EXPLAINED = """A run goes from opening the image to the finished mask; loading the networks is not in it.
Each yardstick ran in the same rounds, in a process of its own. <b>Ceiling</b>: the same passes on tensors already in
memory; the figure is the share of it that the program reached. <b>MONAI</b>: sliding window over the whole image in
memory, overlap 0; <b>naive</b>: the published arithmetic, one window at a time in float32. Their figures say how many
times as fast the program was, for the whole image, and for each window in brackets. Peaks are those of the first run,
which had the machine to itself."""


def bench_page(setting: Setting, rows: Sequence[Row]) -> str:
    """Return the page as text.

    Args:
        setting: The setting of the bench.
        rows: A row for each image and method that was tried.
    """
    done = [row for row in rows if row.runs]
    failed = [row for row in rows if row.error is not None]
    line = quote(setting, rows)
    title = f"magnet bench: {setting.bundle} on {setting.device_name}"
    parts = [
        f"<h1>{_escaped(title)}</h1>",
        f"<blockquote>{_escaped(line)}</blockquote>" if line else "<p>Nothing could be measured.</p>",
    ]
    if done:
        parts += [
            f"<figure>{speed_chart(done)}</figure>",
            f"<figure>{memory_chart(done)}</figure>",
            _table(HEAD, [cells(row) for row in done]),
            f"<p>{EXPLAINED}</p>",
            "<h2>Where the time went</h2>",
            _table(SPLIT_HEAD, [split_cells(row) for row in done]),
            "<p>Forward, refine, select and idle are the computing thread's; reading and writing go on beside it.</p>",
        ]
    notes = [*(_unmeasured(row) for row in done), *(f"{row.label}, {row.method}: {row.error}" for row in failed)]
    parts += [f"<p>{_escaped(note)}</p>" for note in notes if note]
    parts += ["<h2>The machine</h2>", _machine(setting)]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="generator" content="magnet"><title>{_escaped(title)}</title>'
        f"<style>{STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _escaped(text: str) -> str:
    return escape(printable(text))


def _unmeasured(row: Row) -> str:
    reasons = dict.fromkeys(f"{mark.kind} {mark.status}: {mark.reason}" for mark in row.marks if mark.reason)
    return f"{row.label}, {row.method}: {'; '.join(reasons)}" if reasons else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    names, *lines = without_empty(head, rows)
    top = "".join(f"<th>{_escaped(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{_escaped(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _machine(setting: Setting) -> str:
    facts = {
        "device": setting.device_name,
        "engine": setting.engine,
        "precision": setting.precision,
        **setting.machine,
    }
    memory = setting.machine.get("memory")
    if isinstance(memory, int):
        facts["memory"] = f"{memory / MEGA:,.0f} MB"
    lines = "".join(
        f"<dt>{_escaped(name.replace('_', ' '))}</dt><dd>{_escaped(str(fact))}</dd>" for name, fact in facts.items()
    )
    return f"<dl>{lines}</dl>"
