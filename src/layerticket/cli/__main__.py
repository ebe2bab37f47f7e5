"""Lets ``python -m layerticket.cli`` stand for the installed program."""

import sys

from layerticket.cli import main

__all__: list[str] = []

sys.exit(main())
