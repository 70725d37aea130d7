"""Beartype as jaxtyping's import hook takes it: an integer will do where a float is asked for."""

import beartype

check = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
