"""Errors that a person can act on: the field, the value, what is allowed, the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user asked for cannot be done; the message says what to do instead.

    The command line prints the message alone, on one line, and exits with status 2. In Python it
    is an ordinary `ValueError`.
    """


def require(condition: bool, message: str) -> None:
    """Raises `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Returns an error for a name that is not in `known`; it gives the nearest and lists them all.

    Example:
      >>> print(unknown("experiment", "quikstart", ["quickstart", "t5_small"]))
      unknown experiment 'quikstart': did you mean 'quickstart'? Known: quickstart, t5_small
      >>> print(unknown("config", "table_6", ["table_5", "table_6_rate"]))  # the beginning
      unknown config 'table_6': did you mean 'table_6_rate'? Known: table_5, table_6_rate
    """
    known = sorted(known)
    whole = [other for other in known if len(name) > 2 and name in other]
    near = whole or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" did you mean '{near[0]}'?" if near else ""
    return UserError(f"unknown {kind} '{name}':{hint} Known: {', '.join(known) or 'none'}")
