"""What the ablations of configs/ start from: one base for each of their scales.

All train on the embedded corpus with the objective that a config's arms replace. At a scale every
arm has the same rows, the same initialisation and the same updates, so that arms differ in what
their config names alone; held-out figures are as in `quickstart`.
"""

import dataclasses

from jaxdenoise.config import ModelConfig, TrainingConfig
from jaxdenoise.experiment import Experiment, experiment

from .quickstart import quickstart


@experiment
def ablation_smoke() -> Experiment:
    """Thirty steps of a model of 16 dimensions: everything runs, nothing is learnt.

    Source    none: it shows that a config works, on a machine of any size.
    Expected  figures near the unigram's, gaps within the noise.
    Cost      seconds a run on two cores, most of them compiling.
    Command   jaxdenoise sweep t5_table6_corruption_rate --scale smoke
    """
    mini = ablation_mini()
    return dataclasses.replace(
        mini,
        data=dataclasses.replace(mini.data, raw_length=48),
        model=dataclasses.replace(
            mini.model, width=16, mlp_width=32, heads=2, head_width=8, scan_unroll=1
        ),
        training=TrainingConfig(
            steps=30, batch_size=8, evaluate_every=30, evaluation_rows=64, checkpoint_every=10
        ),
    )


@experiment
def ablation_mini() -> Experiment:
    """The quickstart's model and rows: an hour on two CPU cores for a table of three seeds.

    Source    Raffel et al. 2020, section 3.1.4, at 1/200 of its size. Without weight decay, as the
              tables in configs/README.md were made.
    Expected  about half of the gap between unigram and bigram for span corruption.
    Cost      600 steps of 64 rows of 70 tokens, two to four minutes a run on two cores.
    Command   jaxdenoise sweep t5_table6_corruption_rate --scale mini
    """
    base = quickstart()
    optimizer = dataclasses.replace(base.optimizer, weight_decay=0.0)
    training = dataclasses.replace(base.training, steps=600, evaluate_every=200)
    return dataclasses.replace(base, optimizer=optimizer, training=training)


@experiment
def ablation_full() -> Experiment:
    """A T5 of 21 million parameters on longer rows: a table of three seeds on one GPU.

    Source    Raffel et al. 2020, section 3.1.4, at 1/10 of its size.
    Expected  not run yet: figures come with the first machine that has a GPU.
    Cost      2,000 steps of 128 rows of 256 tokens in bfloat16; about half a minute a run on one
              current data-centre GPU, by its FLOPs.
    Command   jaxdenoise sweep t5_table6_corruption_rate --scale full
    """
    mini = ablation_mini()
    return dataclasses.replace(
        mini,
        data=dataclasses.replace(mini.data, vocabulary_size=8_192, raw_length=256),
        model=ModelConfig(
            width=384,
            mlp_width=1024,
            heads=6,
            head_width=64,
            encoder_layers=4,
            decoder_layers=4,
            compute_dtype="bfloat16",
        ),
        optimizer=dataclasses.replace(
            quickstart().optimizer, learning_rate=4e-3, embedding_rate=3e-3
        ),
        training=TrainingConfig(steps=2000, batch_size=128, evaluate_every=500),
    )
