"""Tests of reports use the image and the bundle of the tests of the command line."""

from tests.cli.conftest import _one_thread, bundle, image

__all__ = ["_one_thread", "bundle", "image"]
