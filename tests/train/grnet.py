"""A tiny training of a GRNet, and of a selector for the tiny bundle."""

from __future__ import annotations

from tests.train.support import CONFIG

SIDE = "{ width = 32, height = 32 }"
SMALL = "width = 2, lateral = 2, head = 2, depths = [1, 1, 1, 1]"
GRNET = (
    CONFIG.replace("[{ width = 16, height = 16 }, { width = 32, height = 32 }]", f"[{SIDE}]")
    .replace("size = { width = 16, height = 16 }", f"size = {SIDE}")
    .replace("iterations = 40", 'iterations = 8\noptimizer = "adam"\nloss = "focal"\nfocal_gamma = 3.0')
    .replace("rate = 0.2", "rate = 0.01")
    .replace("log_every = 10", "log_every = 8")
    + f"""
[grnet]
cells = 2
alone = 2
selecting = 1
refining = 1
selector = {{ architecture = "ppn-small", options = {{ width = 2 }} }}
local = {{ architecture = "grnet-small", options = {{ aggregation = 4, {SMALL} }} }}
"""
)
# A selector is added to a bundle that has its description.
SELECTOR = (
    CONFIG[CONFIG.index("[network]") :]
    .replace('architecture = "conv"', 'architecture = "ppn-small"\noptions = { cells = 2, width = 2 }')
    .replace("iterations = 40", "iterations = 4")
    .replace("rate = 0.2", "rate = 0.01")
)
