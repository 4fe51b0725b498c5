"""Everything that only a GPU can show, in one command: `scripts/gpu --device cuda:0 --out FOLDER`."""

from __future__ import annotations

from benchmarks.gpu.conductor import main

if __name__ == "__main__":
    main()
