"""Run the tests marked `gpu` of the suite."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

from benchmarks.gpu.bundles import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.gpu.part import Findings, Setting

MARKED = re.compile(r"pytest\.mark\.gpu\b")


def files() -> list[Path]:
    """Return the files with tests marked `gpu`. Other files may import packages that a machine with a GPU lacks."""
    return sorted(path for path in (ROOT / "tests").rglob("test_*.py") if MARKED.search(path.read_text()))


def run(setting: Setting, findings: Findings) -> None:
    """Run the tests, and add their counts."""
    report = setting.folder / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "-W", "default"]
    command += [f"--junitxml={report}", f"--basetemp={setting.folder / 'tests'}", *map(str, files())]
    # Plugins of packages that have nothing to do with this may not even load.
    alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    ended = subprocess.run(command, cwd=ROOT, check=False, env=alone)
    if not report.exists():
        findings.add("tests marked gpu", f"pytest ended with exit status {ended.returncode}", aim="all pass", met=False)
        return
    # The file is pytest's own, made a moment ago.
    suite = next(ET.parse(report).getroot().iter("testsuite"))  # noqa: S314
    counts = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
    failed = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    ran = counts["tests"] - counts["skipped"]
    wants = setting.kind == "cuda"
    findings.add(
        "tests marked gpu",
        f"{ran - len(failed)} of {ran} passed, {counts['skipped']} skipped",
        aim="all pass, none skipped" if wants else "",
        met=ended.returncode == 0 and ran > 0 and not counts["skipped"] if wants else None,
        counts=counts,
        failed=failed,
    )
