"""UL2: mixtures of denoisers with mode tokens (Tay et al. 2022a, b)."""

from __future__ import annotations

from jaxdenoise.objectives.mixture import Member, mixture
from jaxdenoise.objectives.registry import configure


def _spans(noise_density: float, mean: float, mode_token: str, rate: float = 1.0) -> Member:
    options = {"noise_density": noise_density, "mean_noise_span_length": mean}
    return Member(
        objective=configure("span_corruption", **options), mode_token=mode_token, rate=rate
    )


def _sequential(rate: float = 1.0) -> Member:
    """The S-denoiser: the output is a quarter of the row on average."""
    objective = configure("prefix_lm", longest_output=0.5)
    return Member(objective=objective, mode_token="[S]", rate=rate)


ul2 = mixture(
    "ul2",
    _spans(0.15, 3, "[R]"),
    _spans(0.15, 8, "[R]"),
    _spans(0.5, 3, "[X]"),
    _spans(0.5, 8, "[X]"),
    _spans(0.15, 64, "[X]"),
    _spans(0.5, 64, "[X]"),
    _sequential(),
    doc="""Seven denoisers, each row its own: regular, extreme, sequential, by mode token.

        source   Thank you for inviting me to your party last week .
        [R]      [R] Thank you <0> me to your party <1> week . </s>
        [X]      [X] Thank <0> party <1> </s>
        [S]      [S] Thank you for inviting me to your party </s>

    Args:
      key: randomness.
      tokens: Int[L].
      length: Int[], real tokens in the row.
      vocab: with the mode tokens [R], [X] and [S], and sentinels for the most spans.
      rates: of the seven, in place of one each: (.15, 3), (.15, 8), (.5, 3), (.5, 8), (.15, 64) and
        (.5, 64) of density and mean span length, then the prefix LM.
      mode_tokens: whether they are written.

    Source: Tay et al. 2022, "UL2", section 3.1 and table 2.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxdenoise.vocabulary import Vocabulary
      >>> named = (("[R]", 4), ("[S]", 5), ("[X]", 6))
      >>> corrupt = ul2(vocab=Vocabulary.with_sentinels(size=1000, named_ids=named))
      >>> example = corrupt(jax.random.key(0), jnp.arange(10, 22), 12)
      >>> example.encoder_input_tokens[:3].tolist()
      [5, 10, 11]
    """,
)

ul2r = mixture(
    "ul2r",
    _spans(0.15, 3, "[R]", rate=0.25),
    _spans(0.15, 32, "[X]", rate=0.125),
    _spans(0.5, 3, "[X]", rate=0.125),
    _sequential(rate=0.5),
    doc="""UL2's mixture for going on with a language model: half of it prefix LM.

    Options as in `ul2`; the members are (.15, 3), (.15, 32) and (.5, 3), then the prefix LM.

    Source: Tay et al. 2022, "Transcending Scaling Laws with 0.1% Extra Compute", section 3.2.
    """,
)
