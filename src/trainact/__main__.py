"""``python -m trainact`` is the command ``trainact``."""

import sys

from trainact.cli import main

sys.exit(main())
