"""``python -m trainact`` is the command ``trainact``."""

import sys

from trainact.cli.command import main

sys.exit(main())
