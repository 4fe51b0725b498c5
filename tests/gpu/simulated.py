"""A simulated GPU: the CPU computes its tensors, and it refuses what a GPU refuses.

Tensors of two devices do not mix, memory runs out, and each stream has its own order: a violation is noted when a
stream reads or frees memory on which another stream still works. A copy for which the host does not wait ends when the
host waits for its stream: until then its source on the host must not change, and a result on the host has no values.
What a GPU computes, and how fast, it does not show.
"""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest
    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.segmentation.segment_model import Model

DEVICE = torch.device("meta")
"""The device of simulated tensors. Besides the CPU, every build of torch knows only this one."""
NAME = "cuda:0"
"""Name under which the program knows the device."""
MOVES = {"aten.copy_.default", "aten._to_copy.default", "aten.index.Tensor", "aten.index_put_.default"}
"""Operations that accept tensors of two devices, as on a GPU."""
OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate more than the simulated device has left"


@dataclass(eq=False)
class Stream:
    """A queue of operations that are done in order. It can wait for a moment of another stream."""

    device: torch.device = DEVICE
    done: int = 0
    """Number of operations that were put into the stream."""
    finished: int = 0
    """Number of operations for which the host has waited."""
    known: dict[Stream, int] = field(default_factory=dict)
    """Moment up to which this stream has waited for each other stream."""
    ended: Callable[[], None] = lambda: None
    """Called once the host has waited for the stream."""

    def knows(self, other: Stream, moment: int) -> bool:
        """Return whether the operations of another stream up to a moment end before this stream goes on."""
        return other is self or moment <= other.finished or moment <= self.known.get(other, 0)

    def wait_event(self, event: Event) -> None:
        """Let this stream wait for a moment of another stream."""
        for stream, moment in {**event.known, event.stream: event.moment}.items():
            self.known[stream] = max(moment, self.known.get(stream, 0))

    def synchronize(self) -> None:
        """Let the host wait for all operations of the stream."""
        self.finished = self.done
        for stream, moment in self.known.items():
            stream.finished = max(stream.finished, moment)
        self.ended()


@dataclass(frozen=True, kw_only=True, eq=False)
class HostCopy:
    """A copy between the device and the host for which the host has not waited."""

    stream: Stream
    moment: int
    memory: Tensor
    """Memory of the host, which the tensor or the array of the program shares."""
    values: Tensor
    """The values that are copied."""
    to_host: bool

    @property
    def has_ended(self) -> bool:
        """Return whether the host has waited for the copy."""
        return self.moment <= self.stream.finished


class Event:
    """A moment of a stream: the number of its operations until then."""

    stream: Stream
    moment: int
    known: dict[Stream, int]

    def record(self, stream: Stream) -> None:
        """Set this event to the present moment of a stream."""
        self.stream, self.moment, self.known = stream, stream.done, dict(stream.known)


@dataclass(eq=False)
class Block:
    """A block of the device's memory. Tensors that are views of each other share it."""

    owner: SimulatedDevice
    size: int
    stream: Stream
    written: tuple[Stream, int]
    read: dict[Stream, int] = field(default_factory=dict)

    def __del__(self) -> None:
        self.owner.free(self)


class Simulated(torch.Tensor):
    """A tensor on the simulated device."""

    held: Tensor
    block: Block

    @staticmethod
    def __new__(cls, inner: Tensor, block: Block) -> Self:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        found = made
        found.held, found.block = inner, block
        return found

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]  # torch declares its own without `func`
        del types, args, kwargs
        message = f"{func} on a simulated device, in a thread that does not know it"
        raise RuntimeError(message)


class SimulatedDevice:
    """The memory and the streams of the device, and the violations that were noted.

    Args:
        budget: Bytes of memory.
    """

    def __init__(self, budget: int = 1 << 40) -> None:
        self.budget = budget
        self.used = self.peak = 0
        self.violations: list[str] = []
        self.operations: Counter[str] = Counter()
        self.main = self.new_stream()
        self.pinned: dict[int, Tensor] = {}
        """Page-locked memory of the host by its address. It is never freed, so that no other memory has its address."""
        self.pinned_copies = 0
        """Number of copies from page-locked memory for which the host did not wait at once."""
        self.copies: list[HostCopy] = []
        """Copies that have not ended."""
        self.failed = 0
        """Number of allocations that found no memory."""
        self._lock = threading.RLock()
        self._local = threading.local()

    @property
    def stream(self) -> Stream:
        """Return the stream of the calling thread."""
        return cast("Stream", getattr(self._local, "stream", self.main))

    def new_stream(self) -> Stream:
        """Make a stream of this device."""
        return Stream(ended=self.end_copies)

    def pin(self, tensor: Tensor) -> Tensor:
        """Return a copy of a tensor in page-locked memory."""
        found = tensor.clone()
        self.pinned[found.data_ptr()] = found
        return found

    def end_copies(self) -> None:
        """End all copies for which the host has waited: check their sources, and give results their values."""
        with self._lock:
            ended = [copy for copy in self.copies if copy.has_ended]
            self.copies = [copy for copy in self.copies if not copy.has_ended]
        for copy in ended:
            self._check(copy)
            if copy.to_host:
                copy.memory.copy_(copy.values)

    def check_copies(self) -> None:
        """Check the sources of copies for which the host has not waited."""
        for copy in self.copies:
            self._check(copy)

    def _check(self, copy: HostCopy) -> None:
        if not copy.to_host and not torch.equal(copy.memory, copy.values):
            self.violations.append("memory of the host was written that a copy to the device was still reading")

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        """Put the operations of the calling thread into a stream."""
        before, self._local.stream = self.stream, stream
        try:
            yield
        finally:
            self._local.stream = before

    def take(self, size: int) -> Block:
        """Allocate memory.

        Args:
            size: Number of bytes.

        Raises:
            torch.OutOfMemoryError: Less memory is free.
        """
        with self._lock:
            if self.used + size > self.budget:
                self.failed += 1
                raise torch.OutOfMemoryError(OUT_OF_MEMORY)
            self.used += size
            self.peak = max(self.peak, self.used)
        return Block(owner=self, size=size, stream=self.stream, written=(self.stream, self.stream.done))

    def free(self, block: Block) -> None:
        """Free memory for the next allocation on the stream on which it was allocated."""
        with self._lock:
            self.used -= block.size
            for stream, moment in block.read.items():
                if not block.stream.knows(stream, moment):
                    self.violations.append("memory was freed that another stream was still reading")

    def put(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Carry out one operation that reads or makes tensors of the device."""
        name = str(func)
        theirs = [part for part in tree_iter((args, kwargs)) if isinstance(part, Simulated)]
        tensors = [part for part in tree_iter((args, kwargs)) if isinstance(part, torch.Tensor)]
        plain = [part for part in tensors if not isinstance(part, Simulated)]
        if theirs and name not in MOVES and any(part.dim() for part in plain):
            message = f"Expected all tensors to be on the same device, found two devices in {name}"
            raise RuntimeError(message)
        to = kwargs.get("device")
        leaves = bool(theirs) and to is not None and torch.device(to).type == "cpu"
        if to is not None and torch.device(to) == DEVICE:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        with self._lock:
            self._order(func, args, theirs)
            found = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        self.operations[name] += 1
        waits = not kwargs.get("non_blocking")
        if leaves and not waits:
            return self._late(found)
        if leaves or name == "aten._local_scalar_dense.default":
            self.stream.synchronize()
            return found.clone() if isinstance(found, torch.Tensor) else found
        if name == "aten.copy_.default" and not isinstance(args[0], Simulated):
            self.stream.synchronize()
            return args[0]
        if not waits and plain:
            self._note_copy(plain[0])
        blocks = {part.held.untyped_storage().data_ptr(): part for part in theirs}
        return tree_map(lambda part: self._wrapped(part, blocks) if isinstance(part, torch.Tensor) else part, found)

    def _late(self, values: Tensor) -> Tensor:
        """Return memory of the host that gets these values once the host has waited for the thread's stream."""
        memory, stream = torch.empty_like(values), self.stream
        memory.view(torch.uint8).fill_(0xFF)
        with self._lock:
            self.copies.append(
                HostCopy(stream=stream, moment=stream.done, memory=memory, values=values.clone(), to_host=True)
            )
        return memory

    def _note_copy(self, source: Tensor) -> None:
        """Keep the source of a copy to the device. CUDA copies from memory that is not page-locked at once."""
        if source.data_ptr() not in self.pinned:
            return
        stream = self.stream
        with self._lock:
            self.pinned_copies += 1
            self.copies.append(
                HostCopy(stream=stream, moment=stream.done, memory=source, values=source.clone(), to_host=False)
            )

    def wrap(self, tensor: Tensor) -> Simulated:
        """Return a copy of a tensor of the CPU on the device."""
        # Outside of torch's inference mode what was made in it can hardly be used.
        return cast("Simulated", self._wrapped(tensor.clone(), {}))

    def _wrapped(self, tensor: Tensor, theirs: dict[int, Simulated]) -> Tensor:
        storage = tensor.untyped_storage()
        shared = theirs.get(storage.data_ptr()) if storage.nbytes() else None
        if shared is not None and shared.held is tensor:
            return shared
        return Simulated(tensor, shared.block if shared is not None else self.take(storage.nbytes()))

    def _order(self, func: Any, args: Any, theirs: list[Simulated]) -> None:
        """Record the reads and writes of an operation, and a violation where it does not wait for another stream."""
        stream = self.stream
        stream.done += 1
        written = {
            id(part.block)
            for argument, given in zip(func._schema.arguments, args, strict=False)
            if argument.alias_info is not None and argument.alias_info.is_write
            for part in tree_iter(given)
            if isinstance(part, Simulated)
        }
        for part in theirs:
            block = part.block
            if not stream.knows(*block.written):
                self.violations.append(f"{func} reads what another stream is still writing")
            if id(block) in written:
                if not all(stream.knows(*entry) for entry in block.read.items()):
                    self.violations.append(f"{func} writes what another stream is still reading")
                block.written = (stream, stream.done)
            block.read[stream] = stream.done


def _inner(part: Any) -> Any:
    return part.held if isinstance(part, Simulated) else part


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch declares no types
    """A dispatch mode that gives the operations of one thread on its tensors to the device."""

    def __init__(self, device: SimulatedDevice) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch declares no types
        self._device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        kwargs = kwargs or {}
        to = kwargs.get("device")
        concerned = (to is not None and torch.device(to) == DEVICE) or any(
            isinstance(part, Simulated) for part in tree_iter((args, kwargs))
        )
        return self._device.put(func, args, kwargs) if concerned else func(*args, **kwargs)


class _Functions(TorchFunctionMode):
    """A function mode that makes tensors of numbers on the CPU first, because torch would bypass the dispatch mode."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        kwargs = kwargs or {}
        if func is torch.tensor and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return torch.tensor(*args, **kwargs).to(device)
        if func is torch.Tensor.tolist and isinstance(args[0], Simulated):
            return args[0].cpu().tolist()
        if (
            func is torch.Tensor.__setitem__
            and isinstance(args[0], Simulated)
            and not isinstance(args[2], torch.Tensor)
        ):
            value = torch.full((), args[2], dtype=args[0].dtype, device=DEVICE)
            return func(args[0], args[1], value)
        return func(*args, **kwargs)


@dataclass(frozen=True)
class SimulatedNetworks:
    """Networks on the simulated device, which the CPU computes."""

    networks: Any
    owner: SimulatedDevice
    work: int = 0
    """Bytes of memory that a network takes for each patch while it runs."""

    @property
    def device(self) -> torch.device:
        """Return the simulated device."""
        return DEVICE

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.networks, name)
        return self._called(found) if callable(found) else found

    def _called(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            theirs = [part for part in tree_iter((args, kwargs)) if isinstance(part, torch.Tensor)]
            assert all(isinstance(part, Simulated) for part in theirs), "a network was given a tensor of the host"
            work = self.owner.take(self.work * max((len(part) for part in theirs), default=0))
            found = method(*tree_map(_inner, args), **tree_map(_inner, kwargs))
            del work
            return tree_map(lambda part: self.owner.wrap(part) if isinstance(part, torch.Tensor) else part, found)

        return called


@dataclass(frozen=True)
class SimulatedCascade:
    """A cascade on the device. The CPU computes it, and pixels are normalised on the host."""

    cascade: Any
    owner: SimulatedDevice

    @property
    def device(self) -> torch.device:
        """Return the device."""
        return DEVICE

    def three_levels(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Run the global step on tensors of the device."""
        return cast("tuple[Tensor, Tensor]", self._networks.three_levels(images, masks))

    def two_levels(self, images: Tensor, masks: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        """Run the local step on tensors of the device."""
        return cast("tuple[Tensor, Tensor]", self._networks.two_levels(images, masks, coarse))

    def normalised(self, pixels: NDArray[Any]) -> Tensor:
        """Return pixels as the network takes them, on the host."""
        return cast("Tensor", self.cascade.normalised(pixels))

    @property
    def _networks(self) -> Any:
        return SimulatedNetworks(self.cascade, self.owner)


@contextmanager
def simulated(monkeypatch: pytest.MonkeyPatch, budget: int = 1 << 40) -> Iterator[SimulatedDevice]:
    """Replace CUDA by a simulated device for this thread and for threads of pools that start meanwhile."""
    device = SimulatedDevice(budget)
    original = ThreadPoolExecutor.__init__

    def knowing(pool: ThreadPoolExecutor, *args: Any, **kwargs: Any) -> None:
        original(pool, *args, **kwargs)
        before = pool._initializer

        def begin(*given: Any) -> None:
            _Functions().__enter__()  # type: ignore[no-untyped-call]  # torch declares no types
            _Operations(device).__enter__()  # type: ignore[no-untyped-call]  # torch declares no types
            if before is not None:
                before(*given)

        pool._initializer = begin

    def pinned(tensor: Tensor) -> Tensor:
        # A method of the device would not be given the tensor whose attribute it is.
        return device.pin(tensor)

    with monkeypatch.context() as patched, ExitStack() as modes:
        patched.setattr(ThreadPoolExecutor, "__init__", knowing)
        # Tensors of another kind have no place in it.
        patched.setattr(torch, "inference_mode", torch.no_grad)
        patched.setattr(torch.Tensor, "pin_memory", pinned)
        cuda = {
            "Stream": lambda *_, **__: device.new_stream(),
            "Event": Event,
            "stream": device.on,
            "current_stream": lambda *_: device.stream,
            "empty_cache": lambda: None,
            "reset_peak_memory_stats": lambda *_: None,
            "max_memory_reserved": lambda *_: device.peak,
            "max_memory_allocated": lambda *_: device.peak,
            "memory_reserved": lambda *_: device.used,
            "memory_allocated": lambda *_: device.used,
            "memory_stats": lambda *_: {"num_ooms": device.failed},
            "get_device_name": lambda *_: "Simulated",
            "synchronize": lambda *_: device.stream.synchronize(),
        }
        for name, value in cuda.items():
            patched.setattr(torch.cuda, name, value)
        modes.enter_context(_Functions())
        modes.enter_context(_Operations(device))
        yield device
        device.check_copies()


def on_device(model: Model, device: SimulatedDevice, *, work: int = 0) -> Model:
    """Return a model that was loaded for the CPU as a model on the simulated device."""
    networks = SimulatedNetworks(model.networks, device, work)
    machine = replace(model.machine, device=NAME, gpu_memory=device.budget, context=0)
    return replace(model, networks=cast("Any", networks), machine=machine)
