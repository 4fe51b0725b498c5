"""The image and bundle of the command line's tests."""

from tests.cli.conftest import _one_thread, bundle, image

__all__ = ["_one_thread", "bundle", "image"]
