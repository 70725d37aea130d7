"""`python -m jaxdenoise` is the command line."""

from jaxdenoise.cli import script

script()
