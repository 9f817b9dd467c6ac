"""The command in a process of its own: a browser and a run cannot share a thread."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def bulkrender(folder: Path, *words: Any) -> subprocess.CompletedProcess[str]:
    """Run it in the sandbox, in a folder and without the settings of whoever runs this."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("BULKRENDER_", "GEMINI", "GOOGLE"))}
    # what is not installed lies beside these tests
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [sys.executable, "-m", "runner", *map(str, words), "--sandbox"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def gallery_of(folder: Path, job: str) -> Path:
    """Write the gallery of a job; its page."""
    done = bulkrender(folder, "gallery", job, "--json")
    assert done.returncode == 0, done.stderr
    return Path(json.loads(done.stdout)["gallery"])
