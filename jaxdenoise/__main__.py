"""`python -m jaxdenoise` is the command line."""

import sys

from jaxdenoise.cli import main

sys.exit(main())
