"""Threads wait as the environment states, or briefly."""

from __future__ import annotations

import os
import subprocess
import sys

from magnet_cli.system.threads import wait_briefly


def test_threads_sleep_soon() -> None:
    environment: dict[str, str] = {}
    wait_briefly(environment)
    assert environment == {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "3000"}


def test_what_the_user_says_stays() -> None:
    for said in ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "PASSIVE"}):
        environment = dict(said)
        wait_briefly(environment)
        assert environment == said
    environment = {"GOMP_SPINCOUNT": "7"}
    wait_briefly(environment)
    assert environment == {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "7"}


def test_the_command_line_says_so_before_torch_is_loaded() -> None:
    unset = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    program = (
        "import os, sys, magnet_cli.cli.app\n"
        "print(os.environ['OMP_WAIT_POLICY'], os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], env=unset, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["PASSIVE", "3000", "False"]
