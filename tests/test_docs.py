"""Pages that show code show the code that runs."""

from __future__ import annotations

from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_the_page_of_a_loss_idea_shows_its_script_of_at_most_thirty_lines():
    script = (DOCS / "functional.py").read_text()
    page = (DOCS / "functional.md").read_text()
    shown = page.split("```python\n", 1)[1].split("```", 1)[0]
    assert script.split('"""\n\n', 1)[1] == shown
    assert len(script.splitlines()) <= 30
