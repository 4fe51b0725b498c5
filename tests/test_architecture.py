"""The source has the rooms of the architecture, and each room imports only what it may."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import magnet_cli

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PACKAGE = Path(magnet_cli.__file__).parent

FLOOR = {"errors", "geometry", "events"}
"""The loose files at the bottom of everything. Any room may import them."""

ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "geometry": {"errors"},
    "events": {"errors"},
    "system": FLOOR,
    "options": FLOOR | {"system"},
    "images": FLOOR | {"system", "options"},
    "plan": FLOOR | {"options", "images"},
    "areas": FLOOR | {"system", "options", "images", "plan"},
    "arithmetic": FLOOR | {"options"},
    "models": FLOOR | {"system", "options", "plan"},
    "masks": FLOOR | {"system", "options", "images"},
    "exports": FLOOR | {"system", "options", "images", "masks"},
    "run": FLOOR | {"system", "images", "plan", "models", "masks"},
    "report": FLOOR | {"system", "options", "images", "plan", "areas", "models", "masks", "exports", "run"},
    "refinement": FLOOR | {"system", "options", "images", "plan", "arithmetic", "models", "masks", "run", "report"},
    "segmentation": FLOOR
    | {"system", "options", "images", "plan", "areas", "arithmetic", "models", "masks", "exports", "run", "report"}
    | {"refinement"},
    "evaluation": FLOOR | {"system", "options", "images", "plan", "areas", "models", "masks", "report", "segmentation"},
    "importing": FLOOR | {"system", "options", "images", "plan", "arithmetic", "models", "masks", "evaluation"},
    "train": FLOOR | {"system", "options", "images", "plan", "areas", "arithmetic", "models", "report", "evaluation"},
    "scene": FLOOR | {"system"},
    "bench": FLOOR
    | {"system", "options", "images", "plan", "arithmetic", "models", "masks", "report", "refinement", "segmentation"}
    | {"scene"},
}
"""Rooms that each room may import. What `TOP` names is on top and may import anything."""

TOP = {"__init__", "__main__", "cli"}

ENTRIES = 25
"""Largest number of entries that `ls magnet_cli` may show."""

ONLY: dict[str, set[str]] = {
    "typer": {"cli"},
    "click": {"cli"},
    "rich": {"cli"},
    "torch": {"models", "arithmetic", "run", "refinement", "segmentation", "importing", "train", "bench"},
    "safetensors": {"models", "train"},
    "pydantic": {"models", "train"},
    "openslide": {"images"},
    "pyvips": {"images"},
    "rasterio": {"images"},
    "pyproj": {"images"},
    "fsspec": {"images"},
    "aiohttp": {"images"},
    "wsidicom": {"images"},
    "shapely": {"images", "areas", "exports"},
    "cv2": {"arithmetic"},
    "pydensecrf": {"arithmetic"},
    "jinja2": {"report"},
    "starlette": {"report"},
    "anyio": {"report"},
    "uvicorn": {"report"},
    "matplotlib": {"bench", "evaluation", "train", "report"},
    "monai": {"bench"},
    "hypothesis": set(),
}
"""Rooms that may import a library. A library without an entry may be imported anywhere."""

LIGHT = {
    "torch",
    "tifffile",
    "zarr",
    "pyvips",
    "openslide",
    "skimage",
    "scipy",
    "imagecodecs",
    "matplotlib",
    "safetensors",
    "rasterio",
    "fsspec",
    "aiohttp",
    "wsidicom",
    "jinja2",
    "shapely",
    "pydantic",
    "pyproj",
    "starlette",
    "uvicorn",
}
"""Libraries that a command must not load when it only prints help or a version."""

PUBLIC = tuple(
    """
    BenchOptions BenchResult Box Bundle DeviceError Evaluation EvaluationOptions Events Export ExportOptions
    ImageArray ImageInfo ImageResult JobPart MagnetError MemoryShortageError NetworkDescription OpenImage OutputError
    PhysicalScales PhysicalSize Pitch Plan RefineOptions RefineResult Rule ScoreOptions Scores SegmentOptions Size
    SourceError UsageError ValueRange Verification ViewOptions WeightsError assemble evaluate evaluate_methods export
    info load_bundle make_report open_image plan_refine plan_segment refine run_bench segment segment_array verify
    """.split()  # noqa: SIM905 - a line a name would be as long as the list that it pins
)
"""The Python API, in the order of `magnet_cli.__all__`."""


@dataclass(frozen=True, kw_only=True)
class Import:
    """One import statement's name in one module."""

    module: str
    """Dotted name of the importing module below the package."""
    target: str
    """Full dotted name of the imported module, or of something in it."""
    line: int
    typing: bool
    """Whether only type checkers execute the import."""

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


class Imports(ast.NodeVisitor):
    """A visitor that collects all imports of a module, also those inside functions."""

    def __init__(self, module: str) -> None:
        self.module = module
        self.found: list[Import] = []
        self._typing = False

    def visit_Import(self, node: ast.Import) -> None:
        self._add(node, [alias.name for alias in node.names])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.level == 0, f"{self.module}:{node.lineno}: imports are absolute"
        self._add(node, [f"{node.module}.{alias.name}" for alias in node.names])

    def visit_If(self, node: ast.If) -> None:
        before = self._typing
        self._typing = before or (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING")
        for child in node.body:
            self.visit(child)
        self._typing = before
        for child in node.orelse:
            self.visit(child)

    def _add(self, node: ast.stmt, targets: list[str]) -> None:
        self.found += [
            Import(module=self.module, target=target, line=node.lineno, typing=self._typing) for target in targets
        ]


@cache
def modules() -> dict[str, Path]:
    """Return every module of the package by its dotted name, such as `images.tiff`; a package has its folder's name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports() -> tuple[Import, ...]:
    """Return every import of the package."""
    found: list[Import] = []
    for name, path in modules().items():
        visitor = Imports(name)
        visitor.visit(ast.parse(path.read_text(encoding="utf-8"), filename=str(path)))
        found += visitor.found
    return tuple(found)


def inner() -> Iterator[tuple[Import, str]]:
    """Yield imports of the package's own modules, with the imported module's dotted name below the package."""
    for one in imports():
        library, _, below = one.target.partition(".")
        if library == "magnet_cli":
            while below and below not in modules():
                below = below.rpartition(".")[0]
            yield one, below or "__init__"


SAME_NAME = {
    "__init__": "a room's own module",
    "api": "the Python function of a command",
    "evaluate": "options are named by the command that takes them",
    "export": "options are named by the command that takes them",
    "refine": "options are named by the command that takes them",
    "segment": "options are named by the command that takes them",
}
"""Names that several modules may have, each with the reason."""


def room(module: str) -> str:
    return module.partition(".")[0]


def test_every_room_has_its_row() -> None:
    assert {room(module) for module in modules()} - TOP == set(ROOMS)


def test_the_package_can_be_read_from_its_listing() -> None:
    shown = [path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(shown) <= ENTRIES, sorted(shown)


def test_the_picture_and_the_listing_say_the_same() -> None:
    page = PACKAGE.parent / "docs" / "architecture.md"
    picture = page.read_text(encoding="utf-8").split("```text\n")[1].split("```")[0]
    named = set(re.findall(r"(?:^| {2,})([a-z_]+(?:\.py|\.typed)?) {2,}", picture, flags=re.MULTILINE))
    listed = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert named == listed


def test_rooms_know_only_what_lies_below_them() -> None:
    wrong = [
        str(one)
        for one, target in inner()
        if room(one.module) not in TOP
        and room(target) != room(one.module)
        and room(target) not in ROOMS[room(one.module)]
        # The version is a plain string at the bottom of everything.
        and one.target != "magnet_cli.__version__"
    ]
    assert wrong == []


def test_the_table_itself_has_no_cycle() -> None:
    assert set(TopologicalSorter(ROOMS).static_order()) == set(ROOMS)


def test_modules_import_each_other_without_a_cycle_even_for_types() -> None:
    graph: dict[str, set[str]] = {module: set() for module in modules()}
    for one, target in inner():
        if target not in ("__init__", one.module):
            graph[one.module].add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def several(named: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return names that occur in more than one place, with those places."""
    found: dict[str, list[str]] = {}
    for name, place in named:
        found.setdefault(name, []).append(place)
    return {name: places for name, places in found.items() if len(places) > 1}


def test_a_modules_name_means_one_thing() -> None:
    named = ((path.stem, module) for module, path in modules().items() if room(module) != "cli")
    twice = several(named)
    assert {name: places for name, places in twice.items() if name not in SAME_NAME} == {}
    # A module of the command line has the name of its command, or of what it shows.
    shared = several((path.stem, module) for module, path in modules().items())
    assert set(SAME_NAME) <= set(shared), "an exemption that nothing needs"


def test_a_classs_name_means_one_thing() -> None:
    named = (
        (node.name, module)
        for module, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    assert several(named) == {}


@pytest.mark.parametrize("library", sorted(ONLY))
def test_a_library_stays_in_its_rooms(library: str) -> None:
    wrong = [
        str(one)
        for one in imports()
        if one.target.partition(".")[0] == library and room(one.module) not in ONLY[library]
    ]
    assert wrong == []


def test_bundles_are_described_without_torch() -> None:
    wrong = [str(one) for one in imports() if one.module == "models.bundle" and one.target.startswith("torch")]
    assert wrong == []


@pytest.mark.parametrize("module", ["magnet_cli", "magnet_cli.cli.app"])
def test_starting_loads_nothing_heavy(module: str) -> None:
    command = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", command], check=True, capture_output=True, text=True)
    assert LIGHT & set(done.stdout.split()) == set()


def test_the_public_names_are_these() -> None:
    assert tuple(magnet_cli.__all__) == PUBLIC


def test_public_names_are_no_modules() -> None:
    """Importing a module sets the attribute of that name in the package, which would replace a public function."""
    assert set(magnet_cli.__all__).isdisjoint(modules())
