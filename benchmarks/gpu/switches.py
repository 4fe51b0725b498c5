"""Each setting that could make a forward pass faster is timed on and off.

They are layouts, autotuning, CUDA graphs, compilation, and copies beside the passes.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.gpu.bundles import paper
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.device import computes_bfloat16, pin_arithmetic
from magnet_cli.models.networks import PRECISIONS, load_networks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

    from benchmarks.gpu.part import Findings, Setting
    from magnet_cli.models.networks import Networks

GIGAFLOP = {"backbone": 85.6, "refiner": 44.8}
"""GFLOP of the paper's networks for a window of 508 pixels."""
BATCH = 16


def run(setting: Setting, findings: Findings) -> None:
    """Time the backbone and the refiner in both precisions."""
    pin_arithmetic(torch.get_num_threads())
    bundle = load_bundle(str(paper(setting).weights))
    if setting.kind == "cuda":
        _limits(setting, findings)
    for precision in ("bfloat16", "float32"):
        if precision == "bfloat16" and not computes_bfloat16(setting.device):
            findings.add(f"{precision}: forward pass", "skipped: the device has no instructions for it")
            continue
        networks = load_networks(bundle, device=setting.device, precision=precision)
        bench = _Bench(setting, findings, networks, precision)
        bench.eager()
        if setting.kind == "cuda":
            bench.graphs()
            bench.copies()
    for precision in ("bfloat16", "float32"):
        if setting.kind == "cuda" and computes_bfloat16(setting.device):
            with findings.guarded(f"{precision}: torch.compile"):
                networks = load_networks(bundle, device=setting.device, precision=precision)
                _Bench(setting, findings, networks, precision).compiled()


class _Bench:
    """The timings of the networks in one precision."""

    def __init__(self, setting: Setting, findings: Findings, networks: Networks, precision: str) -> None:
        self._setting = setting
        self._findings = findings
        self._networks = networks
        self._precision = precision
        height, width = networks.bundle.input.size.height, networks.bundle.input.size.width
        self._side = (height, width)
        self._bands, self._classes = len(networks.bundle.input.bands), len(networks.bundle.classes)
        self._least = 0.2 if setting.short else 0.35

    def eager(self) -> None:
        """Time the networks as the program runs them, then with each setting changed."""
        batches = (2,) if self._setting.short else (1, 4, BATCH, 64)
        for batch in batches:
            self._row("backbone", f"as the program runs it, batch {batch}", self._plain(batch), batch)
        if self._setting.short:
            return
        if self._networks.has_refiner:
            self._row("refiner", f"as the program runs it, batch {BATCH}", self._refiner(BATCH), BATCH)
            self._row("refiner", "autotuned", self._refiner(BATCH), BATCH, autotune=True)
        self._row("backbone", "autotuned (cudnn.benchmark)", self._plain(BATCH), BATCH, autotune=True)
        self._row("backbone", "any algorithm (not deterministic)", self._plain(BATCH), BATCH, deterministic=False)
        self._row("backbone", "autotuned, any algorithm", self._plain(BATCH), BATCH, autotune=True, deterministic=False)
        if self._precision == "float32":
            self._row("backbone", "TF32", self._plain(BATCH), BATCH, tf32=True)
        with self._findings.guarded("channels first"):
            self._row("backbone", "channels first", self._contiguous(BATCH), BATCH)
        whole = self._patches(BATCH)
        scale = self._networks.bundle.scales[-1]
        self._row("backbone", "with softmax and checks (predict)", lambda: self._networks.predict(whole, scale), BATCH)

    def graphs(self) -> None:
        """Time the backbone replayed as a CUDA graph."""
        for batch in (1, BATCH):
            with self._findings.guarded(f"{self._precision}: CUDA graph"):
                run = self._plain(batch)
                for _ in range(3):
                    run()
                torch.cuda.synchronize()
                graph = torch.cuda.CUDAGraph()
                with torch.inference_mode(), torch.cuda.graph(graph):
                    run()
                self._row("backbone", f"CUDA graph, batch {batch}", graph.replay, batch)

    def compiled(self) -> None:
        """Time the backbone compiled by `torch.compile`."""
        started = time.monotonic()
        network: Any = torch.compile(self._networks.backbone)
        run = self._running(network, self._patches(BATCH).contiguous(memory_format=torch.channels_last))
        run()
        torch.cuda.synchronize()
        took = time.monotonic() - started
        self._row("backbone", "torch.compile", run, BATCH, compiled_in=round(took, 1))

    def copies(self) -> None:
        """Time copies of pixels beside the passes, from pageable and pinned memory, in one stream and in two."""
        run = self._plain(BATCH)
        pixels = torch.randint(0, 255, (BATCH, *self._side, self._bands), dtype=torch.uint8)
        pinned = pixels.pin_memory()
        side = torch.cuda.Stream(self._setting.device)  # type: ignore[no-untyped-call]  # torch declares no types

        def on_side() -> None:
            with torch.cuda.stream(side):
                pinned.to(self._setting.device, non_blocking=True)
            run()

        def beside(host: Tensor, *, waits: bool) -> None:
            host.to(self._setting.device, non_blocking=not waits)
            run()

        self._row("backbone", "beside copies of pageable memory", lambda: beside(pixels, waits=True), BATCH)
        self._row("backbone", "beside copies of pinned memory", lambda: beside(pinned, waits=False), BATCH)
        self._row("backbone", "beside copies of pinned memory on a side stream", on_side, BATCH)

    def _row(
        self,
        network: str,
        what: str,
        run: Callable[[], object],
        batch: int,
        *,
        autotune: bool = False,
        deterministic: bool = True,
        tf32: bool = False,
        **more: Any,
    ) -> None:
        with (
            self._findings.guarded(f"{self._precision}, {network}, {what}"),
            _arithmetic(autotune=autotune, deterministic=deterministic, tf32=tf32),
        ):
            seconds, host = _timed(run, least=self._least, device=self._setting.device)
            windows = batch / seconds
            rate = "" if self._setting.short else f", {windows * GIGAFLOP[network] / 1e3:.0f} TFLOP/s"
            self._findings.add(
                f"{self._precision}, {network}, {what}",
                f"{seconds * 1e3:.2f} ms a batch, {windows:.0f} windows/s{rate}, host {host * 1e3:.2f} ms",
                seconds=seconds,
                host=host,
                batch=batch,
                **more,
            )

    def _patches(self, batch: int) -> Tensor:
        return torch.randn(batch, self._bands, *self._side, device=self._setting.device)

    def _plain(self, batch: int) -> Callable[[], object]:
        patches = self._patches(batch)
        return _inferring(lambda: self._networks.forward(self._networks.backbone, patches))

    def _refiner(self, batch: int) -> Callable[[], object]:
        pair = torch.randn(batch, 2 * self._classes, *self._side, device=self._setting.device).softmax(dim=1)
        return _inferring(lambda: self._networks.forward(self._networks.refiners[0], pair))

    def _contiguous(self, batch: int) -> Callable[[], object]:
        network = load_networks(
            self._networks.bundle, device=self._setting.device, precision=self._precision
        ).backbone.to(**_layout(torch.contiguous_format))
        return self._running(network, self._patches(batch))

    def _running(self, network: nn.Module, patches: Tensor) -> Callable[[], object]:
        dtype = PRECISIONS[self._precision]

        def once() -> Tensor:
            with torch.autocast(self._networks.device.type, dtype, enabled=dtype != torch.float32):
                found: Tensor = network(patches)
            return found.float().contiguous()

        return _inferring(once)


def _layout(layout: torch.memory_format) -> dict[str, Any]:
    """Return the argument for a layout, which some versions of torch accept without declaring it."""
    return {"memory_format": layout}


def _inferring(run: Callable[[], object]) -> Callable[[], object]:
    def inferring() -> object:
        with torch.inference_mode():
            return run()

    return inferring


def _limits(setting: Setting, findings: Findings) -> None:
    """Add the largest rates of multiplications and copies that the device reaches with the installed libraries."""
    for dtype, side in ((torch.bfloat16, 8192), (torch.float32, 4096)):
        one, other = (torch.randn(side, side, device=setting.device, dtype=dtype) for _ in range(2))
        seconds, _ = _timed(lambda: one @ other, least=0.3, device=setting.device)  # noqa: B023 - called in the loop
        findings.add(f"matrix product, {side}, {dtype}", f"{2 * side**3 / seconds / 1e12:.0f} TFLOP/s")
    source = torch.randint(0, 255, (1 << 30,), dtype=torch.uint8, device=setting.device)
    target = torch.empty_like(source)
    seconds, _ = _timed(lambda: target.copy_(source), least=0.2, device=setting.device)
    findings.add("copy on the device, read and written", f"{2 * source.numel() / seconds / 1e9:.0f} GB/s")
    host = torch.empty(1 << 28, dtype=torch.uint8)
    for name, memory in (("pageable", host), ("pinned", host.pin_memory())):
        seconds, _ = _timed(
            lambda: target[: 1 << 28].copy_(memory, non_blocking=True),  # noqa: B023 - called in the loop
            least=0.2,
            device=setting.device,
        )
        findings.add(f"copy to the device, {name}", f"{(1 << 28) / seconds / 1e9:.1f} GB/s")
        seconds, _ = _timed(
            lambda: memory.copy_(target[: 1 << 28], non_blocking=True),  # noqa: B023 - called in the loop
            least=0.2,
            device=setting.device,
        )
        findings.add(f"copy from the device, {name}", f"{(1 << 28) / seconds / 1e9:.1f} GB/s")


def _timed(run: Callable[[], object], *, least: float, device: str) -> tuple[float, float]:
    """Return the seconds of a call, the median of several bursts, and those seconds in which the host was busy."""
    on_device = device.startswith("cuda")
    for _ in range(3):
        run()
    if on_device:
        torch.cuda.synchronize(device)
    bursts: list[float] = []
    hosts: list[float] = []
    started, calls = time.perf_counter(), 1
    while time.perf_counter() - started < least or len(bursts) < 3:
        start = time.perf_counter()
        for _ in range(calls):
            run()
        told = time.perf_counter()
        if on_device:
            torch.cuda.synchronize(device)
        took = time.perf_counter() - start
        bursts.append(took / calls)
        hosts.append((told - start) / calls)
        calls = max(1, min(50, round(0.05 / max(bursts[-1], 1e-5))))
    return median(bursts), median(hosts)


@contextmanager
def _arithmetic(*, autotune: bool, deterministic: bool, tf32: bool) -> Iterator[None]:
    backends = torch.backends
    before = backends.cudnn.benchmark, backends.cudnn.deterministic, backends.cudnn.allow_tf32
    backends.cudnn.benchmark, backends.cudnn.deterministic, backends.cudnn.allow_tf32 = autotune, deterministic, tf32
    try:
        yield
    finally:
        backends.cudnn.benchmark, backends.cudnn.deterministic, backends.cudnn.allow_tf32 = before
