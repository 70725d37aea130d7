"""Holds a quickstart's run directory and a bench's figures against what the README promises."""

import json
import sys
from pathlib import Path

LEAST_GAP_CLOSED = 0.45
MOST_SECONDS = 300
MOST_DATA_WAIT = 0.02
LEAST_SPEED_UP = 6
MOST_CORRUPTION = 0.02
MASKS_AND_SPANS = (  # LEAST_SPEED_UP times as fast as plain NumPy; the others are not slower
    *("span_corruption", "drop_spans", "iid_denoising", "text_infilling", "mass"),
    *("bert_style", "mass_style", "token_masking", "token_deletion", "token_insertion"),
    *("masked_lm", "masked_next_token", "masked_diffusion", "any_order", "block_diffusion"),
)
LEAST_BART = 40  # times plain NumPy, which runs as fast as the public PyTorch version
MOST_MIXTURE = 1.5  # of its dearest member's time
LEAST_ROUTING = 2.0  # with 80% context
MOST_MEMORY = 0.1  # of the loss, against logits first
LEAST_TOKENISING = 1.5  # two workers against one
MOST_TIME = 1.1  # of what should cost the same, on a machine with other things to do

run, bench = map(Path, sys.argv[1:])
results = json.loads((run / "results.json").read_text("utf-8"))
figures = json.loads(bench.read_text("utf-8"))
seconds, corruption = results["seconds"]["total"], figures["corruption"]["ratio"]
share = figures["step"]["ratio"]
loss, routed = figures["loss"], figures["gradients"]
memory = loss["memory"][0] / loss["memory"][1]
nothing = 1 / routed["0%"]["ratio"]
against_plain = {name: pair["ratio"] for name, pair in figures["objectives"].items()}
slowest = min(against_plain, key=against_plain.__getitem__)
least = min(MASKS_AND_SPANS, key=against_plain.__getitem__)
found = {
    "gap closed": (results["gap_closed"], results["gap_closed"] >= LEAST_GAP_CLOSED),
    "seconds of training": (seconds, seconds <= MOST_SECONDS),
    "waiting for data": (results["data_wait"], results["data_wait"] < MOST_DATA_WAIT),
    "sentences": (len(results["sentences"]), len(results["sentences"]) == 5),
    "bytes of report": (size := (run / "report.html").stat().st_size, size > 100_000),
    "corruption against NumPy": (corruption, corruption >= LEAST_SPEED_UP),
    f"slowest beside plain NumPy, {slowest}": (against_plain[slowest], against_plain[slowest] >= 1),
    f"least of masks and spans, {least}": (
        against_plain[least],
        against_plain[least] >= LEAST_SPEED_UP,
    ),
    "bart against plain NumPy": (against_plain["bart"], against_plain["bart"] >= LEAST_BART),
    "ul2 against its dearest member": (
        mixture := figures["mixture"]["ratio"],
        mixture <= MOST_MIXTURE,
    ),
    "two workers that tokenise": (
        tokenising := figures["tokenise"]["ratio"],
        tokenising >= LEAST_TOKENISING,
    ),
    "corruption in a step": (share, share < MOST_CORRUPTION),
    "memory of the loss": (memory, memory < MOST_MEMORY),
    "time of the loss": (loss["ratio"], loss["ratio"] < MOST_TIME),
    "output_only at 80% context": (speed := routed["80%"]["ratio"], speed >= LEAST_ROUTING),
    "output_only at 0% context": (nothing, nothing < MOST_TIME),
}
for name, (value, holds) in found.items():
    print(f"{'holds' if holds else 'FAILS'}  {name}: {value:.6g}")
sys.exit(not all(holds for _, holds in found.values()))
