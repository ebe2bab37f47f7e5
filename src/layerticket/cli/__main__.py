"""Lets ``python -m layerticket.cli`` stand for the installed program."""

import sys

from layerticket.cli.app import main

sys.exit(main())
