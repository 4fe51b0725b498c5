"""The options of every command: this package parses them, checks them and writes them as text again."""
