"""The tables of docs/accuracy.md and docs/networks.md, made from the committed rows of results.

python -m benchmarks.accuracy.page            # write the tables into the pages
python -m benchmarks.accuracy.page --check    # exit 1 where a page differs from the results
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.accuracy.budget_tables import BUDGET_TABLES
from benchmarks.accuracy.foreign_tables import FOREIGN_TABLES
from benchmarks.accuracy.left_out_tables import LEFT_OUT_TABLES
from benchmarks.accuracy.refined_tables import REFINED_TABLES
from benchmarks.accuracy.segmented_tables import SEGMENTED_TABLES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "accuracy.md"
NETWORKS_PAGE = DOCS / "networks.md"
MARK = re.compile(r"(<!-- table: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
TABLES = {**SEGMENTED_TABLES, **REFINED_TABLES, **BUDGET_TABLES, **LEFT_OUT_TABLES}
PAGES = {PAGE: TABLES, NETWORKS_PAGE: FOREIGN_TABLES}
"""Tables by page."""


def filled(text: str, tables: Mapping[str, Callable[[], str]] = TABLES) -> str:
    """Return a page with its tables made again."""
    return MARK.sub(lambda match: f"{match[1]}{tables[match[2]]()}{match[3]}", text)


def main() -> None:
    """Write or check the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    texts = {page: page.read_text(encoding="utf-8") for page in PAGES}
    made = {page: filled(text, PAGES[page]) for page, text in texts.items()}
    if args.check:
        sys.exit(int(made != texts))
    for page, text in made.items():
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
