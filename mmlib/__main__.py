"""``python -m mmlib``: the command line, see ``mmlib.cli``."""
import sys

from mmlib.cli import main

sys.exit(main())
