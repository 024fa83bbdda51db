"""docs/api.md says what the API server's schema says."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_of_the_api_is_made_from_the_schema() -> None:
    spec = importlib.util.spec_from_file_location("generate_api", DOCS / "generate_api.py")
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    text = (DOCS / "api.md").read_text()
    assert generator.made(text) == text, "run `python docs/generate_api.py`"
    assert "| **`model.uri`** | string |" in text
