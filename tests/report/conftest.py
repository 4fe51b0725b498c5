"""The folder, image and bundle of the command line's tests."""

from tests.cli.conftest import _one_thread, bundle, here, image

__all__ = ["_one_thread", "bundle", "here", "image"]
