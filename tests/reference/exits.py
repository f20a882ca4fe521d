"""A script, and no module: what it does on import is end the program."""

raise SystemExit(0)
