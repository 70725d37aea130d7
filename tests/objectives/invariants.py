"""What a corrupted row has to do with its text, objective by objective: asserted of one row.

A check takes the text, what was made of it, and the objective's options.
"""

import functools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxdenoise.corruption import restore
from tests.objectives.laws import VOCAB
from tests.reference import bart, bert, common, ul2

Made = dict[str, Any]
"""The fields of an example, without padding, as lists; and `uniform`."""
FIM = [VOCAB.named(f"fim_{part}") for part in ("prefix", "suffix", "middle")]


def ordinary(text: Sequence[int]) -> np.ndarray:
    return ~VOCAB.is_special[np.array(text, int)]


def share(number: int, density: float) -> int:
    """BERT's count."""
    return max(1, round(number * density)) if number else 0


def changed(text: list[int], inputs: Sequence[int]) -> np.ndarray:
    """What is not as in the text: ordinary tokens alone, now the mask or other ordinary ones."""
    now, before = np.array(inputs, int), np.array(text, int)
    assert now.shape == before.shape
    found = now != before
    assert ordinary(text)[found].all()
    assert (ordinary(inputs) | (now == VOCAB.mask_id))[found].all()
    return found


def encoder(text: list[int], made: Made) -> tuple[np.ndarray, np.ndarray]:
    """What is changed, and the weights."""
    weights = np.array(made["encoder_loss_weights"])
    assert weights.shape == (len(text),)
    assert np.isfinite(weights).all()
    return changed(text, made["encoder_input_tokens"]), weights


def masked_lm(
    text: list[int],
    made: Made,
    *,
    noise_density: float,
    prediction_density: float | None,
    mask_replace_prob: float,
    random_replace_prob: float,
    count: str,
    unit: str,
    **_: Any,
) -> None:
    noise, weights = encoder(text, made)
    predicted, number = weights > 0, int(ordinary(text).sum())
    assert made["encoder_target_tokens"] == text
    assert ordinary(text)[predicted].all()
    assert set(np.flatnonzero(predicted)) <= set(made["encoder_selected"])
    if prediction_density is None or prediction_density > noise_density:
        assert predicted[noise].all()
    if (count, unit) == ("exact", "token"):
        assert predicted.sum() == share(number, prediction_density or noise_density)
        most = share(number, noise_density)
        assert noise.sum() == most if mask_replace_prob == 1 else noise.sum() <= most
    if unit == "word":
        words = [predicted[word] for word in bert.words(np.array(text), VOCAB)]
        assert all(word.all() or not word.any() for word in words)
        assert predicted.sum() <= share(number, noise_density) or sum(map(np.any, words)) == 1
    if unit == "span":
        assert predicted.sum() <= share(len(text), noise_density)
    if noise_density == 1 and prediction_density is None:
        assert (predicted == ordinary(text)).all()
    if not mask_replace_prob and not random_replace_prob:
        assert not noise.any()


def masked_next_token(text: list[int], made: Made, *, noise_density: float, **_: Any) -> None:
    found, weights = encoder(text, made)
    noise = np.append(False, weights > 0)[: len(text)]
    assert made["encoder_target_tokens"][:-1] == text[1:]
    assert not (weights > 0)[-1:].any()
    assert ordinary(text)[noise].all()
    assert noise[found].all()
    assert noise.sum() == share(int(ordinary(text[1:]).sum()), noise_density)


def diffusion(text: list[int], made: Made, **_: Any) -> np.ndarray:
    """The mask where there is weight, and nowhere else."""
    noise, weights = encoder(text, made)
    assert (noise == (weights > 0)).all()
    assert (np.array(made["encoder_input_tokens"])[noise] == VOCAB.mask_id).all()
    assert made["encoder_target_tokens"] == text
    assert made["count"] == ordinary(text).sum()
    return weights


def any_order(text: list[int], made: Made, **_: Any) -> None:
    weights, number = diffusion(text, made), int(ordinary(text).sum())
    chosen = min(math.floor(np.float32(made["uniform"]) * number) + 1, number)
    assert (weights > 0).sum() == chosen
    np.testing.assert_allclose(weights[weights > 0], number / max(chosen, 1), rtol=1e-6)


def noisy_copy(text: list[int], made: Made) -> Made:
    """The first of two copies; the second is the text, and has no weight."""
    half = len(text)
    assert made["encoder_input_tokens"][half:] == made["encoder_target_tokens"][half:] == text
    assert not any(made["encoder_loss_weights"][half:])
    halves = ("encoder_input_tokens", "encoder_target_tokens", "encoder_loss_weights")
    return made | {name: made[name][:half] for name in halves}


def block_diffusion(text: list[int], made: Made, **_: Any) -> None:
    diffusion(text, noisy_copy(text, made))


def canvas(text: list[int], made: Made, *, block_length: int | None, **_: Any) -> None:
    made = made if block_length is None else noisy_copy(text, made)
    weights = encoder(text, made)[1]
    assert VOCAB.mask_id not in made["encoder_input_tokens"]
    assert (weights == ordinary(text)).all()
    assert made["encoder_target_tokens"] == text


def sides(made: Made, predicts: bool) -> tuple[list[int], list[int]]:
    """Inputs and targets of an encoder-decoder; both end, and all targets weigh alike."""
    inputs, targets = made["encoder_input_tokens"], made["decoder_target_tokens"]
    assert inputs[-1] == targets[-1] == VOCAB.eos_id
    assert made["decoder_input_tokens"] == [VOCAB.start_id, *targets[:-1]]
    assert made["decoder_loss_weights"] == [float(predicts)] * len(targets)
    assert made["count"] == predicts * len(targets)
    return inputs[:-1], targets[:-1]


def clean(text: list[int], made: Made) -> list[int]:
    """The corrupted inputs; the targets are the text."""
    inputs, targets = sides(made, len(text) > 0)
    assert targets == text
    return inputs


def bert_style(text: list[int], made: Made, *, noise_density: float, **options: float) -> None:
    noise = changed(text, clean(text, made))
    if noise_density == 0:
        assert not noise.any()
    if noise_density == options.get("mask_replace_prob", 1) == 1:
        assert (noise == ordinary(text)).all()


def token_masking(text: list[int], made: Made, *, mask_ratio: float, random_ratio: float) -> None:
    noise, number = changed(text, clean(text, made)), common.ceil(sum(ordinary(text)) * mask_ratio)
    assert noise.sum() == number if random_ratio == 0 else noise.sum() <= number


def is_part(inputs: Sequence[int], text: Sequence[int]) -> bool:
    """Whether deleting some of the text gives the inputs."""
    rest = iter(text)
    return all(token in rest for token in inputs)


def token_deletion(text: list[int], made: Made, *, mask_ratio: float) -> None:
    inputs, special = clean(text, made), ~ordinary(text)
    assert is_part(inputs, text)
    assert [token for token in inputs if VOCAB.is_special[token]] == np.array(text)[
        special
    ].tolist()
    deleted = min(common.ceil(len(text) * mask_ratio), sum(~special))
    assert len(inputs) == len(text) - deleted


def without_masks(inputs: list[int]) -> list[int]:
    return [token for token in inputs if token != VOCAB.mask_id]


def text_infilling(
    text: list[int], made: Made, *, mask_ratio: float, replace_length: int, **_: Any
) -> None:
    inputs, noise = clean(text, made), common.ceil(len(text) * mask_ratio)
    assert is_part(without_masks(inputs), text)
    assert len(without_masks(inputs)) == len(text) - noise
    if replace_length == -1:
        assert len(inputs) >= len(text)
    if noise == 0:
        assert inputs == text


def token_insertion(text: list[int], made: Made, *, insert_ratio: float, **_: Any) -> None:
    inputs = clean(text, made)
    assert without_masks(inputs) == text
    assert len(inputs) == len(text) + common.ceil(len(text) * insert_ratio)


def is_made_of(inputs: list[int], pieces: list[list[int]]) -> bool:
    """Whether the pieces in some order give the inputs."""
    if not pieces:
        return not inputs
    return any(
        inputs[: len(piece)] == piece
        and is_made_of(inputs[len(piece) :], pieces[:number] + pieces[number + 1 :])
        for number, piece in enumerate(pieces)
    )


def sentence_permutation(text: list[int], made: Made, *, permute_sentence_ratio: float) -> None:
    inputs = clean(text, made)
    assert is_made_of(inputs, bart.sentences(np.array(text, int), VOCAB))
    assert permute_sentence_ratio > 0 or inputs == text


def document_rotation(text: list[int], made: Made, *, rotate_ratio: float) -> None:
    first = 1 if rotate_ratio and len(text) > 1 else 0
    offsets = range(first, len(text) if rotate_ratio else 1)
    turned = [text[offset:] + text[:offset] for offset in offsets]
    assert clean(text, made) in (turned or [text])


def deshuffling(text: list[int], made: Made, *, noise_density: float) -> None:
    inputs, special = np.array(clean(text, made), int), ~ordinary(text)
    assert Counter(inputs.tolist()) == Counter(text)
    assert (inputs == text)[special].all()
    assert noise_density > 0 or inputs.tolist() == text


def whole_bart(text: list[int], made: Made, *, mask_ratio: float, **options: float) -> None:
    inputs = clean(text, made)
    kept = Counter(without_masks(inputs))
    assert kept <= Counter(text)
    assert kept.total() == len(text) - common.ceil(len(text) * mask_ratio)
    changing = ("permute_sentence_ratio", "insert_ratio", "rotate_ratio")
    assert mask_ratio or any(options[name] for name in changing) or inputs == text


def sentinels(tokens: list[int]) -> list[int]:
    return [token for token in tokens if token in VOCAB.sentinel_number]


def filled(text: list[int], inputs: list[int], targets: list[int], trailing: bool = False) -> int:
    """The number of sentinels, in order on both sides; merged, both sides are the text."""
    number = len(sentinels(inputs))
    assert sentinels(inputs) == list(VOCAB.sentinel_ids[:number])
    assert sentinels(targets) == list(VOCAB.sentinel_ids[: number + (trailing and number > 0)])
    assert restore.fill_sentinels(inputs, targets, VOCAB) == text
    return number


def noise_counts(text: list[int], density: float, mean: float) -> tuple[int, int]:
    return common.noise_counts(len(text), density, mean) if len(text) > 1 else (0, 0)


def span_corruption(
    text: list[int],
    made: Made,
    *,
    noise_density: float,
    mean_noise_span_length: float,
    unbiased: bool = False,
    trailing_sentinel: bool = False,
) -> None:
    inputs, targets = sides(made, len(text) > 1)
    number = filled(text, inputs, targets, trailing_sentinel)
    noise, spans = noise_counts(text, noise_density, mean_noise_span_length)
    assert len(targets) - len(sentinels(targets)) == noise
    assert number in (spans, spans + (unbiased and noise > 1))  # one may go around the end


def iid_denoising(text: list[int], made: Made, **_: float) -> None:
    inputs, targets = sides(made, len(made["decoder_target_tokens"]) > 1)
    assert (filled(text, inputs, targets) > 0) == (len(targets) > 0)


def drop_spans(
    text: list[int], made: Made, *, noise_density: float, mean_noise_span_length: float
) -> None:
    inputs, targets = sides(made, len(text) > 1)
    assert len(targets) == noise_counts(text, noise_density, mean_noise_span_length)[0]
    assert is_merged(text, tuple(inputs), tuple(targets))


def is_merged(text: Sequence[int], one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two sequences, each in its order, make up the text."""
    ways = {(0, 0)}
    for token in text:
        ways = {(a + 1, b) for a, b in ways if one[a : a + 1] == (token,)} | {
            (a, b + 1) for a, b in ways if other[b : b + 1] == (token,)
        }
    return (len(one), len(other)) in ways


def prefix_lm(text: list[int], made: Made, *, longest_output: float) -> None:
    inputs, targets = sides(made, len(text) > 1)
    assert inputs + targets == text
    assert len(targets) in outputs(text, longest_output)


def outputs(text: list[int], longest: float) -> Sequence[int]:
    return range(1, noise_counts(text, longest, 1)[0] + 1) if len(text) > 1 else [0]


def mixture(
    text: list[int],
    made: Made,
    *,
    members: Sequence[ul2.Member],
    mode_tokens: bool,
    **_: Any,
) -> None:
    """As one of the members does it whose mode token is in front."""
    inputs = made["encoder_input_tokens"]
    modes = {member.mode for member in members}
    if mode_tokens:
        modes = {mode for mode in modes if VOCAB.named(mode) == inputs[0]}
        made = made | {"encoder_input_tokens": inputs[1:]}
    able = [
        m for m in members if m.mode in modes and holds(CHECKS[m.name], text, made, **m.options)
    ]
    assert able, (text, made)


def holds(check: Callable[..., Any], *args: Any, **options: Any) -> bool:
    try:
        check(*args, **options)
    except AssertionError:
        return False
    return True


def mass(text: list[int], made: Made, *, noise_density: float) -> None:
    inputs, span, at = (
        made[name]
        for name in ("encoder_input_tokens", "decoder_target_tokens", "decoder_positions")
    )
    assert len(span) == share(len(text), noise_density)
    assert at == list(range(at[0], at[0] + len(span)) if span else [])
    merged = np.array(inputs)
    assert (merged[at] == VOCAB.mask_id).all()
    merged[at] = span
    assert merged.tolist() == [*text, VOCAB.eos_id]
    before = [VOCAB.start_id, *text]
    assert made["decoder_input_tokens"] == [before[place] for place in at]
    assert made["decoder_loss_weights"] == [1.0] * len(span)


def causal_prefix_lm(text: list[int], made: Made, *, longest_output: float) -> None:
    output = int(sum(made["decoder_loss_weights"]))
    assert made["decoder_target_tokens"] == text
    assert output in outputs(text, longest_output)
    assert made["decoder_loss_weights"] == [0.0] * (len(text) - output) + [1.0] * output


def fill_in_the_middle(text: list[int], made: Made, *, fim_rate: float, spm_rate: float) -> None:
    targets = made["decoder_target_tokens"]
    marked = [token in FIM for token in targets]
    assert made["decoder_loss_weights"] == [float(len(text) > 0 and not mark) for mark in marked]
    assert sum(marked) == (3 if fim_rate else 0)
    assert targets.pop() == VOCAB.eos_id
    if fim_rate:
        prefix, suffix, middle = FIM
        assert targets.pop(0) == prefix
        at, last = targets.index(suffix), targets.index(middle)
        assert at == 0 or not spm_rate
        targets = targets[:at] + targets[last + 1 :] + targets[at + 1 : last]
    assert targets == text


CHECKS: dict[str, Callable[..., Any]] = {
    "span_corruption": span_corruption,
    "drop_spans": drop_spans,
    "iid_denoising": iid_denoising,
    "bert_style": bert_style,
    "mass_style": bert_style,
    "deshuffling": deshuffling,
    "prefix_lm": prefix_lm,
    "token_masking": token_masking,
    "token_deletion": token_deletion,
    "text_infilling": text_infilling,
    "sentence_permutation": sentence_permutation,
    "document_rotation": document_rotation,
    "token_insertion": token_insertion,
    "bart": whole_bart,
    "masked_lm": masked_lm,
    "masked_next_token": masked_next_token,
    "causal_prefix_lm": causal_prefix_lm,
    "fill_in_the_middle": fill_in_the_middle,
    "mass": mass,
    "masked_diffusion": diffusion,
    "any_order": any_order,
    "block_diffusion": block_diffusion,
    "canvas": canvas,
    "ul2": functools.partial(mixture, members=ul2.UL2),
    "ul2r": functools.partial(mixture, members=ul2.UL2R),
}
