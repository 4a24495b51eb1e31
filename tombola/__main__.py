"""`python -m tombola` is `tombola`."""

from tombola.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
