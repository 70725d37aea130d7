"""How well texts answer: exactly, by their words, by the longest run of words in order."""

from __future__ import annotations

import collections
import importlib.util
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdenoise.errors import require

MEASURES = {
    "exact_match": "exact match",
    "token_f1": "token F1",
    "rouge_l": "ROUGE-L",
}
"""What answers are scored by, and what it is called; 1 is best."""
MODEL = "this model"
"""What it is called beside the baselines."""
NEEDED = ("rouge_score", "sklearn")
_TOGETHER = 64  # sources whose nearest are looked for at a time


class _Words:
    """Runs of letters and digits of any script, in lower case: read_text is two."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"[^\W_]+", text.lower())


def _pieces(text: str) -> list[str]:
    """Words, and signs one by one, so that any text has some."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def check_installed() -> None:
    """Raises `UserError` unless what scores answers is installed."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    require(
        not missing,
        f"to score answers, {' and '.join(missing)} must be installed: pip install "
        "'jaxdenoise[score]'",
    )


def score(answers: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
    """The mean of each of `MEASURES` over pairs of an answer and what it should be.

    Token F1 is that of the words that both have, as in SQuAD; it is ROUGE-1's F-measure.

    Source: Rajpurkar et al. 2016, section 6.1; Lin 2004, "ROUGE", section 3, by Google's
    rouge-score.

    Example:
      >>> score(["read_text", "sum"], ["readText", "total sum"])
      {'exact_match': 0.0, 'token_f1': 0.3333, 'rouge_l': 0.3333}
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1", "rougeL"], tokenizer=_Words())
    found = [scorer.score(target, text) for text, target in zip(answers, targets, strict=True)]
    exact = [a.strip() == target.strip() for a, target in zip(answers, targets, strict=True)]
    return {
        "exact_match": round(float(np.mean(exact)), 4),
        "token_f1": round(float(np.mean([one["rouge1"].fmeasure for one in found])), 4),
        "rouge_l": round(float(np.mean([one["rougeL"].fmeasure for one in found])), 4),
    }


def baseline_answers(
    known: Sequence[tuple[str, str]], sources: Sequence[str]
) -> Mapping[str, Sequence[str]]:
    """What is answered without a model.

    Args:
      known: pairs of source and target.
      sources: that are asked.

    Returns:
      "majority": the commonest target. "nearest (TF-IDF)": that of the known source whose words
      are nearest by cosine, weighted by TF-IDF.

    Example:
      >>> known = [("Return the sum.", "sum"), ("Add numbers.", "sum"), ("Read a file.", "read")]
      >>> {name: answers[0] for name, answers in baseline_answers(known, ["Reads a file"]).items()}
      {'majority': 'sum', 'nearest (TF-IDF)': 'read'}
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts, targets = zip(*known, strict=True)
    [(commonest, _)] = collections.Counter(targets).most_common(1)
    pieces: Any = _pieces  # a function will do, which the types there do not say
    vectorizer: Any = TfidfVectorizer(analyzer=pieces, sublinear_tf=True)
    among = vectorizer.fit_transform(texts)
    places: list[int] = []
    for start in range(0, len(sources), _TOGETHER):
        nearness = vectorizer.transform(sources[start : start + _TOGETHER]) @ among.T
        places += np.asarray(nearness.argmax(axis=1)).ravel().tolist()
    return {
        "majority": [commonest] * len(sources),
        "nearest (TF-IDF)": [targets[place] for place in places],
    }
