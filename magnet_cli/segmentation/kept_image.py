"""An image that stays open from its plan to its run, so that its file is opened and its tags are parsed once."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

from typing_extensions import override

from magnet_cli.system.closing import Closing

if TYPE_CHECKING:
    from magnet_cli.images import Image


class KeptImage(Closing):
    """An open image, which its run takes over once. Threads may share it.

    Args:
        image: The image. Whoever takes it closes it; until then it is closed with this object.
    """

    def __init__(self, image: Image) -> None:
        self._image: Image | None = image
        self._lock = Lock()

    def take(self) -> Image | None:
        """Return the image the first time, and None afterwards."""
        with self._lock:
            image, self._image = self._image, None
        return image

    @override
    def close(self) -> None:
        """Close the image, if nobody has taken it."""
        image = self.take()
        if image is not None:
            image.close()
