"""The tables of docs/accuracy.md, made from the committed rows of results.

python -m benchmarks.accuracy.page            # write the tables into the page
python -m benchmarks.accuracy.page --check    # exit 1 where the page differs from the results
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from benchmarks.accuracy.budget_tables import BUDGET_TABLES
from benchmarks.accuracy.refined_tables import REFINED_TABLES
from benchmarks.accuracy.segmented_tables import SEGMENTED_TABLES

PAGE = Path(__file__).parents[2] / "docs" / "accuracy.md"
MARK = re.compile(r"(<!-- table: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
TABLES = {**SEGMENTED_TABLES, **REFINED_TABLES, **BUDGET_TABLES}


def filled(text: str) -> str:
    """A page with its tables made again."""
    return MARK.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}{match[3]}", text)


def main() -> None:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    text = PAGE.read_text(encoding="utf-8")
    made = filled(text)
    if args.check:
        sys.exit(int(made != text))
    PAGE.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
