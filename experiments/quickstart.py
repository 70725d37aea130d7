"""Experiments on the embedded corpus, for a machine without an accelerator.

`pydocs` is the docstrings of the Python that runs and of its installed packages: about 10 MB of
technical English, 4 million tokens of a 1,128-id BPE. What a model of it has learnt is given as the
share of the gap closed between a unigram (0%) and an interpolated bigram (100%), both fitted on the
training documents and asked for the same held-out tokens.

`pydocs_names` and `pydocs_modules` are pairs made of it, to fine-tune on. Held-out pairs are of the
documents that `pydocs` holds out, so that no pre-training on it has seen them.
"""

import dataclasses

from jaxdenoise.config import DataConfig, ModelConfig, OptimizerConfig, TrainingConfig
from jaxdenoise.experiment import Experiment, experiment
from jaxdenoise.objectives import configure


@experiment
def quickstart() -> Experiment:
    """Span corruption on docstrings in two to five minutes on two CPU cores.

    Source    Raffel et al. 2020, section 3.1.4: noise density .15, mean span 3; Muon for matrices
              (Jordan et al. 2024), which learns more than AdamW in the same time here. Without
              its weight decay attention logits grow to 60, and such a model is hard to fine-tune.
    Expected  71% of the gap between unigram and bigram: 4.43 nats a text token, 2.62 bits a byte.
    Cost      800 steps of 64 rows of 70 tokens; two to five minutes on two cores.
    Command   jaxdenoise train quickstart
    """
    return Experiment(
        data=DataConfig(corpus="pydocs", vocabulary_size=1134, sentinels=100, raw_length=70),
        objective=configure("span_corruption", noise_density=0.15, mean_noise_span_length=3.0),
        model=ModelConfig(
            width=128,
            mlp_width=256,
            heads=4,
            head_width=32,
            encoder_layers=2,
            decoder_layers=2,
            scan_unroll=2,
        ),
        optimizer=OptimizerConfig(
            name="muon",
            learning_rate=1e-2,
            embedding_rate=6e-3,
            warmup_steps=100,
            b1=0.95,
            weight_decay=0.2,
        ),
        training=TrainingConfig(steps=800, batch_size=64, evaluate_every=200),
    )


@experiment
def pydocs_small() -> Experiment:
    """The same task with a larger model and longer rows, in less than an hour on two CPU cores.

    Source    as quickstart.
    Expected  84% of the gap between unigram and bigram: 4.20 nats a text token, 2.52 bits a byte.
    Cost      3,000 steps of 32 rows of 141 tokens; 30 to 50 minutes on two cores.
    Command   jaxdenoise train pydocs_small
    """
    return Experiment(
        data=DataConfig(corpus="pydocs", vocabulary_size=1134, sentinels=100, raw_length=141),
        objective=configure("span_corruption", noise_density=0.15, mean_noise_span_length=3.0),
        model=ModelConfig(
            width=192,
            mlp_width=512,
            heads=6,
            head_width=32,
            encoder_layers=3,
            decoder_layers=3,
            scan_unroll=3,
        ),
        optimizer=OptimizerConfig(
            name="muon", learning_rate=6e-3, embedding_rate=4e-3, warmup_steps=200, b1=0.95
        ),
        training=TrainingConfig(steps=3000, batch_size=32, evaluate_every=500),
    )


@experiment
def pydocs_names() -> Experiment:
    """What a docstring says of a function, and the function's name to find.

    Source    Allamanis et al. 2016, "A convolutional attention network for extreme summarization
              of source code": names as short summaries, scored by their words.
    Expected  3.9% token F1 from a quickstart, 3.0% from scratch; see configs/README.md.
    Cost      200 steps of 64 pairs, up to 96 tokens; about two minutes on two cores.
    Command   jaxdenoise train pydocs_names --init-from runs/quickstart
    """
    return _on_pairs("pydocs_names", longest_target=24)


@experiment
def pydocs_modules() -> Experiment:
    """A docstring, and the module to find of which it is: one of nearly 600.

    Source    Raffel et al. 2020, section 2.4: classes as texts.
    Expected  40.3% exact match from a quickstart, 38.1% from scratch; see configs/README.md.
    Cost      200 steps of 64 pairs, up to 96 tokens; about two minutes on two cores.
    Command   jaxdenoise train pydocs_modules --init-from runs/quickstart
    """
    return _on_pairs("pydocs_modules", longest_target=24)


def _on_pairs(corpus: str, longest_target: int) -> Experiment:
    """The quickstart's model and tokenizer on pairs."""
    base = quickstart()
    return dataclasses.replace(
        base,
        data=dataclasses.replace(base.data, corpus=corpus, pairs=True, raw_length=96),
        objective=configure("text_to_text", longest_target=longest_target),
        optimizer=OptimizerConfig(
            name="muon", learning_rate=1e-2, embedding_rate=6e-3, warmup_steps=50, b1=0.95
        ),
        training=TrainingConfig(steps=200, batch_size=64, evaluate_every=100, evaluation_rows=512),
    )
