"""Holds a quickstart's run directory against what the README promises."""

import json
import sys
from pathlib import Path

LEAST_GAP_CLOSED = 0.45
MOST_SECONDS = 300
MOST_DATA_WAIT = 0.02

run = Path(sys.argv[1])
results = json.loads((run / "results.json").read_text("utf-8"))
seconds = results["seconds"]["total"]
found = {
    "gap closed": (results["gap_closed"], results["gap_closed"] >= LEAST_GAP_CLOSED),
    "seconds of training": (seconds, seconds <= MOST_SECONDS),
    "waiting for data": (results["data_wait"], results["data_wait"] < MOST_DATA_WAIT),
    "sentences": (len(results["sentences"]), len(results["sentences"]) == 5),
    "report": (run / "report.html", (run / "report.html").stat().st_size > 100_000),
}
for name, (value, holds) in found.items():
    print(f"{'holds' if holds else 'FAILS'}  {name}: {value}")
sys.exit(not all(holds for _, holds in found.values()))
