"""Folders of sweeps, written by hand: no training."""

import json

DATA = dict.fromkeys(
    ("corpus", "files", "mixture", "field", "documents", "held_out", "raw_length"), "x"
)
OBJECTIVES = {
    "spans": {"name": "span_corruption"},
    "masks": {"name": "masked_lm"},
    "copy": {"name": "identity"},
}
PUBLISHED = {"measure": "GLUE", "values": {"spans": 83.28}, "higher_is_better": True}


def token(text: str, span: int | None = None, **loss: float) -> dict:
    return {"text": text, "span": span, **loss}


def example(source: str, predicted: str) -> dict:
    words = [token(word) for word in source.split("|")]
    return {
        "source": [*words[:-1], {**words[-1], "span": 0}],
        "inputs": [*words[:-1], token("<extra_id_0>", 0)],
        "targets": [token("<extra_id_0>", 0, loss=0.1), {**words[-1], "span": 0, "loss": 3.21}],
        "prediction": [token("<extra_id_0>", 0), token(predicted, 0)],
    }


def write_sweep_folder(root, arms=("spans", "masks"), seeds=(0, 1), finished=None, **about):
    """A folder of a sweep whose runs have invented figures.

    Args:
      root: the folder.
      arms: their names; the objective of one is that of `OBJECTIVES`, or the first.
      seeds: of each.
      finished: (arm, seed) of the runs that have ended; all by default.
      **about: what sweep.json says beside it.
    """
    jobs = []
    for number, arm in enumerate(arms):
        for seed in seeds:
            job = {
                "name": f"{arm},seed={seed}",
                "arm": arm,
                "path": f"run-{number}-{seed}",
                "experiment": {
                    "data": DATA,
                    "model": {"architecture": "encoder" if arm == "masks" else "encoder_decoder"},
                    "training": {"steps": 40, "evaluation_rows": 8},
                    "objective": OBJECTIVES.get(arm, OBJECTIVES["spans"]),
                    "seed": seed,
                },
                "objectives": OBJECTIVES,
                "infill": None,
            }
            jobs.append(job)
            if finished is None or (arm, seed) in finished:
                _write_run(root / job["path"], job, number)
    root.mkdir(exist_ok=True)
    plain = {
        "title": "Which noise?",
        "source": "a paper, table 1",
        "scale": "mini",
        "budget": "target_tokens",
        "measure": None,
        "published": PUBLISHED,
        "jobs": jobs,
        **about,
    }
    (root / "sweep.json").write_text(json.dumps(plain))


def fail(root, run: str, reason: str):
    (root / run).mkdir()
    (root / run / "failure.json").write_text(json.dumps({"reason": reason, "traceback": "…"}))


def loss_of(number: int, seed: int) -> float:
    """The held-out loss of a run of an arm."""
    return 5.0 - number + seed / 7


def _write_run(folder, job, number):
    folder.mkdir(parents=True)
    seed, loss = job["experiment"]["seed"], loss_of(number, job["experiment"]["seed"])
    store = {"identity_digest": "x"}
    rows = [{"step": step, "loss": 8.0 - step / 20 + seed / 9} for step in (10, 20, 30, 40)]
    rows.insert(2, {"step": 20, "held_out": {"text_loss": loss + 1}})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    figures = {"text_loss": loss, "text_accuracy": 0.2, "bits_per_byte": 3.1}
    expressible = ["masks"] if job["arm"] == "masks" else ["spans", "copy"]
    files = {
        "config": {"name": job["name"], "experiment": job["experiment"], "store": store},
        "results": {
            "held_out": figures,
            "steps": 20,  # it was continued in the middle
            "seconds": {"stepping": 3.0 + number},
            "device": "1 × cpu",
            "versions": {"jax": "0.10.2"},
        },
        "measures": {
            "matrix": dict.fromkeys(expressible, figures),
            "infill": {"loss": loss / 2, "accuracy": 0.5 + number / 10 + seed / 100},
            "order": {"share": 0.5 + number / 20, "margin": 0.1, "texts": 6},
            "costs": {"flops": 1000 * (number + 1), "target_tokens": 16.0, "source_tokens": 100.0},
        },
        "gallery": [example("a |<b>|\n c", f"guess {number}"), example(f"{number}| d", "e")],
    }
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
