"""Examples as marked tokens, all objectives side by side: in a terminal, a notebook, a page."""

import io
import re
import sys
import types

import numpy as np
import pytest
import rich
from rich.console import Console

import jaxdenoise as jd
from jaxdenoise.arrays import Example
from jaxdenoise.objectives import objectives
from jaxdenoise.report.figures import render_comparison, render_statistics
from jaxdenoise.report.gallery import Entry, Refused, gallery
from jaxdenoise.report.gallery_page import write_gallery
from jaxdenoise.report.marked import marked_lines, weights_line
from jaxdenoise.report.statistics import CorruptionStatistics, Lengths, repeat
from jaxdenoise.tokenizer import train_tokenizer
from tests.report.test_page import browse

TOKENIZER = train_tokenizer(["a b c"], vocabulary_size=300, sentinels=9)
VOCAB = TOKENIZER.vocab
IDS = TOKENIZER.encode("abcdefgh")
MASK, EOS, PAD = VOCAB.mask_id, VOCAB.eos_id, VOCAB.pad_id


def written(lines) -> dict[str, str]:
    """Each line with [marks:…] around the tokens that have one, and dim ones in braces."""
    shown = {}
    for name, pieces in lines:
        text = ""
        for piece in pieces:
            shape = "{%s}" if piece.dim else "%s" if piece.mark is None else f"[{piece.mark}:%s]"
            text += shape % piece.text
        shown[name] = text
    return shown


def encoder_example(read, targets, weights, positions=None) -> Example:
    return Example(
        encoder_input_tokens=np.array(read),
        encoder_target_tokens=np.array(targets),
        encoder_loss_weights=np.array(weights, float),
        encoder_segment_ids=(np.array(targets) != PAD).astype(int),
        encoder_positions=positions,
    )


def pair(read, targets) -> Example:
    read, targets = np.array(read), np.array(targets)
    return Example(
        encoder_input_tokens=read,
        encoder_segment_ids=(read != PAD).astype(int),
        decoder_input_tokens=targets,
        decoder_target_tokens=targets,
        decoder_loss_weights=(targets != PAD).astype(float),
        decoder_segment_ids=(targets != PAD).astype(int),
    )


def test_a_span_has_one_mark_in_source_inputs_and_targets():
    first, second = VOCAB.sentinel_ids[:2]
    a, b, c, d, e = IDS[:5]
    example = pair([a, first, d, second, EOS, PAD], [first, b, c, second, e, EOS, PAD])
    expected = {
        "source": "a[0:b][0:c]d[1:e]",
        "inputs": "a[0:<extra_id_0>]d[1:<extra_id_1>]</s>",
        "targets": "[0:<extra_id_0>][0:b][0:c][1:<extra_id_1>][1:e]</s>",
    }
    assert written(marked_lines(example, TOKENIZER)) == expected
    assert written(marked_lines(example, TOKENIZER, IDS[:5])) == expected


def test_gaps_are_marked_where_there_are_no_sentinels():
    a, b, c, d, e = IDS[:5]
    example = pair([MASK, a, MASK, d, e, EOS], [a, b, c, d, e, EOS])
    assert written(marked_lines(example, TOKENIZER, IDS[:5])) == {
        "source": "a[1:b][1:c]de",
        "inputs": "[0:<mask>]a[1:<mask>]de</s>",
        "targets": "abcde</s>",
    }
    assert written(marked_lines(example, TOKENIZER))["inputs"] == "[0:<mask>]a[0:<mask>]de</s>"


def test_targets_without_an_end_get_none():
    a, b, c = IDS[:3]
    assert written(marked_lines(pair([a, MASK, c, EOS], [b, PAD]), TOKENIZER))["targets"] == "b"


def test_an_encoder_marks_what_is_changed_or_predicted():
    a, b, c, d, e = IDS[:5]
    example = encoder_example([a, MASK, c, d, e, PAD], [a, b, c, d, e, PAD], [0, 1, 0, 1, 0, 0])
    assert written(marked_lines(example, TOKENIZER, IDS[:5])) == {
        "source": "a[0:b]c[1:d]e",  # d is noise that stays as it is
        "inputs": "a[0:<mask>]c[1:d]e",
    }
    assert weights_line(example) == "2 of weight 1, 4 of weight 0"
    everything = encoder_example([a, e, c], [a, b, c], [1, 1, 1])
    assert written(marked_lines(everything, TOKENIZER, IDS[:3]))["source"] == "a[0:b]c"
    ahead = encoder_example([a, MASK, c, d], [b, c, d, d], [0.5, 0, 0, 0])
    assert written(marked_lines(ahead, TOKENIZER, IDS[:4])) == {
        "source": "a[0:b]cd",
        "inputs": "a[0:<mask>]cd",
        "targets": "b{c}{d}{d}",
    }


def test_of_two_copies_the_noisy_one_is_shown():
    a, b, c = IDS[:3]
    weights = [3.2, 1.04, 1.5, 0, 0, 0]
    positions = np.array([0, 1, 2, 0, 1, 2])
    example = encoder_example([MASK, b, c, a, b, c], [a, b, c, a, b, c], weights, positions)
    lines = written(marked_lines(example, TOKENIZER, IDS[:3]))
    assert lines["inputs"] == "[0:<mask>]bc"
    assert lines[""] == "{3 more positions hold the source as it is}"
    assert (
        weights_line(example) == "1 of weight 3.2, 1 of weight 1.5, 1 of weight 1.04, 3 of weight 0"
    )
    many = example.replace(encoder_loss_weights=np.array([5, 4, 3, 2, 1.04, 0]))
    assert weights_line(many) == "5 of weight 1.04 to 5, 1 of weight 0"


def test_a_row_that_is_moved_is_shown_beside_its_source():
    a, b, c = IDS[:3]
    mark = VOCAB.named("fim_middle")
    row = np.array([a, c, mark, b])
    example = Example(
        decoder_input_tokens=np.array([PAD, a, c, mark]),
        decoder_target_tokens=row,
        decoder_loss_weights=np.array([1.0, 1, 0, 1]),
        decoder_segment_ids=np.ones(4, int),
    )
    lines = written(marked_lines(example, TOKENIZER, IDS[:3]))
    assert lines["source"] == "abc"
    assert lines["targets"] == "ac{<fim_middle>}b"


def statistics(**fields) -> CorruptionStatistics:
    wide = Lengths(mean=540.5, largest=568, bound=568)
    usual = {
        "draws": 256,
        "corrupted": 0.154,
        "targets": 0.23,
        "source": wide,
        "encoder": wide,
        "decoder": wide,
        "spans": 11.4,
        "span_lengths": ((1, 6), (2, 3), (4, 1)),
    }
    return CorruptionStatistics(**{**usual, **fields})


def printed(renderable, width: int) -> list[str]:
    file = io.StringIO()
    Console(width=width, file=file, highlight=False).print(renderable)
    return [line.rstrip() for line in file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [60, 80, 100])
def test_statistics_stand_in_their_columns(width):
    lines = printed(render_statistics(statistics()), width)
    assert lines[1] == "corrupted  15.4% of the source tokens"
    assert lines[2] == "spans      11.4 a row, of 1.6 tokens on average"
    assert [line.split()[0] for line in lines[3:7]] == ["1", "2", "3", "4-5"]
    assert lines[3].count("█") == 2 * lines[4].count("█") == 24
    assert lines[6].endswith(" 10.0%")
    assert any(line.split() == ["encoder", "540.5", "568", "568", "4.8%"] for line in lines)
    lone = statistics(encoder=None, spans=None, span_lengths=None)
    assert not any(
        "spans" in line or "encoder" in line for line in printed(render_statistics(lone), width)
    )


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_comparison_cuts_nothing(width):
    short = Lengths(mean=52, largest=52, bound=58)
    lone = statistics(encoder=None, decoder=short, spans=None, span_lengths=None)
    found = {
        "sentence_permutation": statistics(encoder=short, decoder=short),
        "causal_lm": lone,
        "masked_lm": statistics(encoder=short, decoder=None),
    }
    lines = printed(render_comparison(found, width), width)
    rows = {line.split()[0]: line for line in lines if line}
    spans = "11.4 ×  1.6" if width > 60 else "11.4×1.6"
    for wanted in ("15.4%", spans, "52/58", "0.23"):
        assert wanted in rows["sentence_permutation"]
    assert rows["causal_lm"].split()[:3] == ["causal_lm", "15.4%", "52/58"]
    assert list(rows)[:7] == [
        *("objective", "encoder-decoder", "sentence_permutation", "encoder", "masked_lm"),
        *("decoder", "causal_lm"),
    ]
    assert not any("…" in line for line in lines)


@pytest.fixture(scope="module")
def shown():
    """Three objectives, and one that writes what the tokenizer lacks."""
    plain = train_tokenizer(["a. b c"], vocabulary_size=300, sentinels=20)
    rows = jd.rows(plain, ["if x < 3 & y: <b>go</b>. and so on. \n the end"], 40)
    with objectives.scope():
        for name in objectives.names():
            if name not in ("span_corruption", "masked_lm", "causal_lm"):
                del objectives._entries[name]

        @jd.objective(needs=("fim_nothing",))
        def wants_more(key, tokens, length, *, vocab):
            """Cannot be built."""

        yield list(gallery(repeat(rows, 8), plain))


def test_a_gallery_has_every_objective_or_why_not(shown):
    assert [one.name for one in shown] == [
        "causal_lm",
        "masked_lm",
        "span_corruption",
        "wants_more",
    ]
    entry, refused = shown[2], shown[3]
    assert isinstance(entry, Entry)
    assert (
        entry.description
        == "Replaces noise spans by sentinels; the target is each sentinel followed by its span."
    )
    assert entry.statistics.draws == 8
    assert [name for name, _ in entry.lines] == ["source", "inputs", "targets"]
    assert isinstance(refused, Refused)
    assert refused.description == "Cannot be built."
    assert "no token named 'fim_nothing'" in refused.reason


@pytest.fixture
def page(shown, tmp_path):
    path = tmp_path / "gallery.html"
    entries = [one for one in shown if isinstance(one, Entry)]
    write_gallery(entries, [one for one in shown if isinstance(one, Refused)], path)
    return path


def test_a_page_is_complete_and_needs_nothing_from_outside(page):
    text = page.read_text("utf-8")
    for wanted in ("Not shown", "fim_nothing", "Comparison", "span-0", "tokens of a span", "⏎"):
        assert wanted in text, wanted
    assert not re.findall(r"https?://|<script|@import|<b>go", text)
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert sorted(ids) == ["causal_lm", "comparison", "masked_lm", "span_corruption"]
    assert set(re.findall(r'href="#([^"]+)"', text)) == set(ids)


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 1200])
def test_a_browser_shows_the_gallery_without_scrolling_sideways(page, tmp_path, width):
    seen = browse(page, tmp_path, width)
    assert seen["scroll"] <= seen["width"]
    assert seen["text"] > 1000


def test_a_notebook_gets_html(monkeypatch):
    """Rich shows what it prints through IPython, where a notebook has that."""
    displayed = []
    display = types.ModuleType("IPython.display")
    display.display = lambda *things: displayed.extend(things)
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    console = Console(force_jupyter=True)
    monkeypatch.setattr(rich, "_console", console)
    first = VOCAB.sentinel_ids[0]
    example = pair([IDS[0], first, EOS], [first, IDS[1], EOS])
    jd.show(
        Example(**{k: None if v is None else v[None] for k, v in vars(example).items()}), TOKENIZER
    )
    html = displayed[0]._repr_mimebundle_(["text/html"], [])["text/html"]
    assert "background-color" in html
    assert "&lt;extra_id_0&gt;" in html
