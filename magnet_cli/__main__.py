"""`python -m magnet_cli` is the command `magnet`."""

from magnet_cli.cli.program import main

if __name__ == "__main__":
    main()
