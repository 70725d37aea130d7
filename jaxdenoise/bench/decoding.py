"""Greedy decoding beside transformers' `generate`: the same model, inputs and tokens."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdenoise.arrays import Example
from jaxdenoise.bench.pairs import Paired, time_in_turn
from jaxdenoise.bench.peers import imported, use_all_cores
from jaxdenoise.huggingface.pretrained import read_pretrained
from jaxdenoise.model.decoding import greedy
from jaxdenoise.vocabulary import Vocabulary

ROWS, INPUTS, TOKENS = 64, 64, 64
IDS, END = 32_128, 32_127  # the last id ends a text: random weights hardly ever choose it


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """Both ways to generate.

    Attributes:
      times: seconds of a whole generation, theirs first.
      compiling: seconds, of ours, before.
      same: the share of tokens that are equal.
    """

    times: Paired
    compiling: float
    same: float

    @property
    def speeds(self) -> tuple[float, float]:
        """Tokens a second at the median time, theirs first."""
        first, second = (ROWS * TOKENS / seconds for seconds in self.times.medians)
        return first, second

    def summary(self) -> dict[str, Any]:
        """As plain data, for a file."""
        return {
            **self.times.summary(),
            "tokens_per_second": list(self.speeds),
            "compiling": self.compiling,
            "same": self.same,
        }


def greedy_beside_transformers(rounds: int = 5, **sizes: int) -> Decoded:
    """64 rows of 64 tokens each, from 64 input tokens, by a T5 of the small one's shape.

    Args:
      rounds: pairs that are timed.
      **sizes: other fields of transformers' T5Config, for a smaller one.

    Raises:
      UserError: PyTorch or transformers are missing.
    """
    torch, transformers = imported("torch"), imported("transformers")
    use_all_cores(torch)
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    config = transformers.T5Config(decoder_start_token_id=0, eos_token_id=END, **sizes)
    theirs = transformers.T5ForConditionalGeneration(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = read_pretrained(folder)
    vocab = Vocabulary(size=IDS, eos_id=END)
    ids = np.random.default_rng(0).integers(2, IDS - 1, (ROWS, INPUTS)).astype(np.int32)
    batch = Example(encoder_input_tokens=jnp.asarray(ids), encoder_segment_ids=jnp.ones_like(ids))
    given = torch.tensor(ids.astype(np.int64))
    mask = torch.ones_like(given)
    begin = time.perf_counter()
    decode = jax.jit(greedy, static_argnums=(0, 3, 4))
    compiled = decode.lower(ours.model, ours.params, batch, TOKENS, vocab).compile()
    compiling = time.perf_counter() - begin

    def run_theirs() -> np.ndarray:
        with torch.no_grad():
            found = theirs.generate(
                given, attention_mask=mask, max_new_tokens=TOKENS, do_sample=False, num_beams=1
            )
        return found[:, 1:].numpy()

    def run_ours() -> np.ndarray:
        return np.asarray(compiled(ours.params, batch))

    same = float(np.mean(run_theirs() == run_ours()))
    return Decoded(times=time_in_turn(run_theirs, run_ours, rounds), compiling=compiling, same=same)
