"""``python -m mmlib``: the command line, see ``mmlib.cli``."""

import sys

from mmlib.cli.main import main

sys.exit(main())
