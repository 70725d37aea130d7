"""Eight CPU devices, quick compilation, and small things to train on."""

import functools
import gc
import json
import os
from importlib.metadata import version

from packaging.version import Version

# Compiling is most of the time, and XLA's older emitters of CPU code, where it still has them,
# take a third of it. Read when JAX loads, by the processes of the tests too.
if Version(version("jaxlib")) < Version("0.11"):
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "")
        + " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    )

import hypothesis
import jax
import numpy as np
import pytest
from jax._src.interpreters import mlir

from jaxdenoise.arrays import Rows
from jaxdenoise.vocabulary import Vocabulary

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_disable_most_optimizations", True)
os.environ["JAX_COMPILATION_CACHE_DIR"] = ""  # a sweep keeps programs for itself alone
# Every program has its MLIR context made anew, a quarter of the time of small ones; one will do.
if hasattr(mlir, "make_ir_context"):
    mlir.make_ir_context = functools.cache(mlir.make_ir_context)
gc.freeze()  # what is imported stays; tracing makes many objects and few cycles
gc.set_threshold(100_000, 50, 100)

hypothesis.settings.register_profile("default", deadline=None, max_examples=50, derandomize=True)
hypothesis.settings.load_profile("default")


@pytest.fixture
def vocab() -> Vocabulary:
    """V = 1000 with 100 sentinels, all marks, sentence ends 20 and 21, odd ids inside words.

    Ids 30 to 59 are characters; from 100 on most others have one to five of them.
    """
    return full_vocabulary()


def full_vocabulary() -> Vocabulary:
    """The vocabulary of the fixture `vocab`."""
    names = ("[R]", "[S]", "[X]", "fim_prefix", "fim_middle", "fim_suffix")
    return Vocabulary.with_sentinels(
        size=1000,
        sentinels=100,
        mask_id=2,
        separator_id=3,
        named_ids=tuple(zip(names, range(4, 10), strict=True)),
        sentence_end_ids=(20, 21),
        continuation_ids=tuple(range(11, 900, 2)),
        spellings=tuple(map(spelling, range(1000))),
    )


def spelling(token: int) -> tuple[int, ...]:
    """The characters of a token of `full_vocabulary`."""
    if 30 <= token < 60:
        return (token,)
    if not 100 <= token < 900:
        return ()
    return tuple(30 + (token // 6 + 7 * place) % 30 for place in range(token % 6))


@pytest.fixture
def make_rows():
    """A function for rows of random ordinary tokens."""

    def make(batch: int, length: int, *, lengths=None, seed: int = 0) -> Rows:
        rng = np.random.default_rng(seed)
        return Rows(
            tokens=rng.integers(10, 900, (batch, length)).astype(np.int32),
            lengths=np.array(lengths if lengths is not None else [length] * batch, np.int32),
            example_ids=np.arange(batch, dtype=np.uint32),
            epochs=np.zeros(batch, np.uint32),
        )

    return make


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A small text file: sentences that can be learnt, in 300 documents."""
    rng = np.random.default_rng(0)
    names, verbs = ["array", "matrix", "vector", "list"], ["Return", "Compute", "Print", "Sort"]
    lines = [
        f"{rng.choice(verbs)} the {rng.choice(names)} number {rng.integers(10_000)} "
        f"of the {rng.choice(names)}, along axis {rng.integers(9)} or none at all."
        for _ in range(300)
    ]
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("\n\n".join(lines), "utf-8")
    return path


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    """A small .jsonl file of 300 pairs: what is said of a function, and its name."""
    rng = np.random.default_rng(0)
    lines = []
    for number in range(300):
        what, how = rng.choice(["array", "matrix", "vector"]), rng.choice(["sort", "sum", "copy"])
        source = f"Give the {what} number {number} after a {how} along axis {rng.integers(9)}."
        lines.append(json.dumps({"source": source, "target": f"{how}_{what}"}))
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("\n".join(lines), "utf-8")
    return path


@pytest.fixture
def on_pairs(tiny, pairs):
    """The tiny experiment on the pairs."""
    from jaxdenoise.experiment import override

    data = {"data.files": [str(pairs)], "data.pairs": True, "data.held_out": 0.2}
    return override(tiny, {**data, "objective": "text_to_text", "training.evaluation_rows": 100})


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """Token stores of the tests, away from the user's; one for all workers."""
    together = "PYTEST_XDIST_WORKER" in os.environ
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if together else base) / "cache"
    place.mkdir(exist_ok=True)
    os.environ["JAXDENOISE_CACHE"] = str(place)
    return place


@pytest.fixture
def tiny(corpus):
    """An experiment that trains in a second."""
    from jaxdenoise import config
    from jaxdenoise.experiment import Experiment

    return Experiment(
        data=config.DataConfig(
            files=(str(corpus),), vocabulary_size=400, sentinels=20, raw_length=40, held_out=0.2
        ),
        model=config.ModelConfig(
            width=16,
            mlp_width=32,
            heads=2,
            head_width=8,
            encoder_layers=1,
            decoder_layers=1,
            dropout_rate=0.1,
        ),
        optimizer=config.OptimizerConfig(learning_rate=3e-3, warmup_steps=4),
        training=config.TrainingConfig(
            steps=12,
            batch_size=8,
            log_every=2,
            evaluate_every=4,
            evaluation_rows=10,
            checkpoint_every=5,
        ),
    )
