"""``python -m jaxrl_llm.techniques FOLDER``: writes the pages of the table."""

from __future__ import annotations

import argparse
from pathlib import Path

from jaxrl_llm.techniques.pages import pages

_BASE = Path(__file__).resolve().parents[2] / "configs" / "base.py"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m jaxrl_llm.techniques", description=__doc__)
    parser.add_argument("folder", type=Path, help="written to, such as docs/techniques")
    parser.add_argument("--base", type=Path, default=_BASE, help="the config that defaults are read from")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    written = pages(arguments.base)
    for name, text in written.items():
        (arguments.folder / name).write_text(text)
    print(f"{len(written)} pages in {arguments.folder}")


if __name__ == "__main__":
    main()
