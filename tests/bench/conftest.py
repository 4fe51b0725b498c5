"""The folder of the command line's tests."""

from tests.cli.conftest import here

__all__ = ["here"]
