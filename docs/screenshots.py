"""Take pictures of the built site's pages as a phone and a desktop show them, into build/screenshots.

    make docs
    python docs/screenshots.py                              # every page but those of the reference
    python docs/screenshots.py reference/names/tfprune.wrap # named pages

It needs Chromium (`apt-get install chromium`). Look at the pictures before a change of the site lands.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
BROWSERS = ["chromium", "chromium-browser", "google-chrome"]
WIDTHS = (390, 1280)
# A headless window is at least 500 pixels wide, so the page is shown in a frame of the width that is asked for.
FRAME = (
    "<!doctype html><style>body{{margin:0}}iframe{{border:0;width:{width}px;height:{height}px}}</style>"
    '<iframe src="{page}"></iframe>'
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Take pictures of the pages of the built site.")
    parser.add_argument("pages", nargs="*", help="pages without .html (default: all but those of names)")
    parser.add_argument("--site", type=Path, default=ROOT / "build/site", help="the built site")
    parser.add_argument("--output", type=Path, default=ROOT / "build/screenshots", help="folder for the pictures")
    parser.add_argument("--height", type=int, default=2400, help="how much of each page (default: %(default)s px)")
    options = parser.parse_args()
    pages = options.pages or [
        str(path.relative_to(options.site).with_suffix(""))
        for path in sorted(options.site.rglob("*.html"))
        if "names" not in path.parts
    ]
    options.output.mkdir(parents=True, exist_ok=True)
    for page in pages:
        for width in WIDTHS:
            picture = options.output / f"{page.replace('/', '-')}-{width}.png"
            shoot(options.site / f"{page}.html", picture, width=width, height=options.height)


def shoot(page: Path, picture: Path, *, width: int, height: int) -> None:
    """Write a picture of a page at a width."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit("Expected Chromium to be installed. Received: none. Run apt-get install chromium.")
    with tempfile.TemporaryDirectory() as folder:
        frame = Path(folder, "frame.html")
        frame.write_text(FRAME.format(width=width, height=height, page=page.as_uri()), encoding="utf-8")
        quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder}/user"]
        size = f"--window-size={width},{height}"
        command = [browser, *quiet, size, "--virtual-time-budget=3000", f"--screenshot={picture}", frame.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)


if __name__ == "__main__":
    main()
