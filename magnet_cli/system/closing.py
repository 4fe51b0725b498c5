"""Objects that hold files or threads until they are closed, also at the end of a `with` block, or after a failure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType


class Closing(ABC):
    """An object whose `close` a `with` block calls when it ends, whatever ends it."""

    @abstractmethod
    def close(self) -> None:
        """Release what the object holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def undone_on_failure(undo: Callable[[], object]) -> Iterator[None]:
    """Call `undo` if the block does not end well, whatever stops it: also a bug, Ctrl-C, or a shortage of memory.

    Args:
        undo: Closes what the block would have handed to the caller, or removes a file that it left incomplete.
    """
    with ExitStack() as stack:
        stack.callback(undo)
        yield
        stack.pop_all()
