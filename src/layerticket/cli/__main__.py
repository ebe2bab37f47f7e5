"""Run the command line with ``python -m layerticket.cli``."""

import sys

from layerticket.cli.app import main

sys.exit(main())
