"""Measuring how fast text becomes tokens."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
import time
from pathlib import Path

from jaxdenoise.bench.pairs import Paired
from jaxdenoise.config import DataConfig
from jaxdenoise.data.build import Shard, write_shards
from jaxdenoise.data.pydocs import documents
from jaxdenoise.data.records import FilePart
from jaxdenoise.data.store import prepare

COPIES = 4  # of the documentation, 10 MB each
PARTS = 16


def workers_against_one(workers: int, rounds: int = 3) -> tuple[Paired, int]:
    """Tokenising by one thread of this process (first) against several processes (second).

    Each reads the same JSON Lines and writes the same shards. The processes have one thread each;
    their start counts.

    Args:
      workers: processes.
      rounds: pairs that are timed.

    Returns:
      The times, and the bytes of text.
    """
    tokenizer = prepare(DataConfig()).tokenizer.to_json()
    texts = [text for _, text in documents()] * COPIES
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "texts.jsonl"
        source.write_text("\n".join(json.dumps({"text": text}) for text in texts), "utf-8")
        size = source.stat().st_size
        bounds = [size * part // PARTS for part in range(PARTS + 1)]
        shards = [
            Shard(
                path=Path(folder) / f"{begin}.shard",
                part=FilePart(path=source, begin=begin, end=end),
                sides=0.05,
                skips=False,
            )
            for begin, end in itertools.pairwise(bounds)
        ]
        before = os.environ.get("TOKENIZERS_PARALLELISM")
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        try:
            times = [
                [_seconds(shards, tokenizer, number) for number in (1, workers)]
                for _ in range(rounds)
            ]
        finally:
            if before is None:
                del os.environ["TOKENIZERS_PARALLELISM"]
            else:
                os.environ["TOKENIZERS_PARALLELISM"] = before
    ones, several = zip(*times, strict=True)
    return Paired(first=ones, second=several), sum(len(text.encode()) for text in texts)


def _seconds(shards: list[Shard], tokenizer: str, workers: int) -> float:
    begin = time.perf_counter()
    for _ in write_shards(shards, tokenizer, workers):
        pass
    return time.perf_counter() - begin
