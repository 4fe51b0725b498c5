"""Processes of contenders, which are ended whatever happens."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magnet_cli.errors import DeviceError, MagnetError
from magnet_cli.system.closing import Closing, undone_on_failure
from magnet_cli.system.threads import wait_briefly

if TYPE_CHECKING:
    from magnet_cli.bench.task import Command, Ready, Took

KILLED = -9


class Process(Closing):
    """One contender in a fresh process, as a context; leaving it kills the process.

    Args:
        kind: A contender of `worker.CONTENDERS`.
        task: What the contender is made of.
        command: The command that is measured.
    """

    def __init__(self, kind: str, task: object, command: Command = "segment") -> None:
        self._kind = kind
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        # -P: a module of the user's folder must not stand in for one of ours.
        words = [sys.executable, "-P", "-m", "magnet_cli.bench.worker"]
        environment = {**os.environ, "PYTHONPATH": path}
        wait_briefly(environment)
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter and a module of this package
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        # Without an object there is nothing else that ends the process.
        with undone_on_failure(self.close):
            self._send((command, kind, task))

    def prepare(self) -> Ready:
        """Prepare the contender in its process.

        Raises:
            MagnetError: The contender failed, or its process was killed.
        """
        ready: Ready = self.ask("prepare")
        return ready

    def run(self, what: str = "", program: Took | None = None) -> Took:
        """Run the contender in its process.

        Raises:
            MagnetError: The contender failed, or its process was killed.
        """
        took: Took = self.ask("run", what, program)
        return took

    def ask(self, name: str, *arguments: object) -> Any:
        """Call a method of the contender and wait for its answer.

        Raises:
            MagnetError: The contender failed, or its process was killed.
        """
        self._send((name, arguments))
        answer = self._receive()
        if isinstance(answer, MagnetError):
            raise answer
        return answer

    def close(self) -> None:
        """Kill the process, if it still runs, and wait for its end."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        self._process.kill()
        self._process.wait()

    def _send(self, message: object) -> None:
        if self._process.stdin is None:
            raise RuntimeError(self._kind)
        with suppress(BrokenPipeError):  # the answer will be missing, and says why
            pickle.dump(message, self._process.stdin)
            self._process.stdin.flush()

    def _receive(self) -> object:
        if self._process.stdout is None:
            raise RuntimeError(self._kind)
        try:
            return pickle.load(self._process.stdout)  # noqa: S301 - from our own child
        except (EOFError, pickle.UnpicklingError) as error:
            code = self._process.wait()
            if code == KILLED:
                raise DeviceError(
                    f"the process of '{self._kind}' was killed, probably because memory ran out",
                    advice="Take smaller --sizes, or leave this one out",
                ) from error
            message = f"the process of '{self._kind}' ended with code {code}; its own messages are above"
            raise RuntimeError(message) from error
