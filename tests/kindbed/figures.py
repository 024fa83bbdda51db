"""Figures that the end-to-end tests measure, in build/e2e.json."""

import json
from typing import Any, Final

from kindbed.cluster import ROOT

FILE: Final = ROOT / "build" / "e2e.json"


def note(name: str, **figures: Any) -> None:
    """Writes the figures of one test; those of others stay."""
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    known[name] = figures
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
