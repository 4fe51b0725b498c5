"""Run all checks that only a GPU can make: `scripts/gpu --device cuda:0 --out FOLDER`."""

from __future__ import annotations

from benchmarks.gpu.conductor import main

if __name__ == "__main__":
    main()
