"""``python -m mmlearn`` is the command ``mmlearn``."""

from mmlearn.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
