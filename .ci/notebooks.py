"""Runs notebooks and stores them with their outputs: `python .ci/notebooks.py FILES`."""

from __future__ import annotations

import sys
import tempfile
from typing import Any

import nbformat
from nbclient import NotebookClient


def run(notebook: Any, folder: str) -> None:
    """Runs every cell, in a kernel whose working directory is the folder."""
    place = {"metadata": {"path": folder}}
    client = NotebookClient(
        notebook, timeout=3600, kernel_name="python3", record_timing=False, resources=place
    )
    client.execute()


if __name__ == "__main__":
    for path in sys.argv[1:]:
        notebook = nbformat.read(path, as_version=4)
        with tempfile.TemporaryDirectory() as folder:
            run(notebook, folder)
        nbformat.write(notebook, path)
