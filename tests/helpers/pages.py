"""Pages of HTML, read by a parser and laid out by a real browser."""

import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser

import pytest

BROWSER = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
WIDTHS = {"phone": 390, "desktop": 1400}
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium is installed (apt-get install chromium)")


class Elements(HTMLParser):
    """Collects elements with their attributes, and the text."""

    def __init__(self, content):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


MEASURE = """
<!doctype html><meta charset="utf-8"><style>body{{margin:0}}iframe{{border:0;width:{width}px;height:900px}}</style>
<iframe srcdoc="{page}"></iframe><pre></pre><script>
window.onload = () => {{
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  page.querySelectorAll("details").forEach(details => details.open = true);
  const box = element => element.getBoundingClientRect();
  const meet = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  const touching = texts => texts.flatMap((one, index) => texts.slice(index + 1)
    .filter(other => meet(box(one), box(other))).map(other => `${{one.textContent}} / ${{other.textContent}}`));
  const wide = [...page.body.querySelectorAll("*")].filter(element => box(element).right > {width} + 0.5);
  document.querySelector("pre").textContent = JSON.stringify({{
    seen: root.clientWidth, needed: root.scrollWidth, wide: wide.map(element => element.outerHTML.slice(0, 80)),
    touching: [...page.querySelectorAll("svg")].flatMap(svg => touching([...svg.querySelectorAll("text")])),
    signs: [...page.querySelectorAll("summary")].map(each => getComputedStyle(each, "::before").content),
    pictures: [...page.images].every(image => image.naturalWidth > 0 && box(image).width > 9),
    letters: Math.min(...[...page.querySelectorAll("p,td,th,dd,dt,figcaption,summary *")].map(
      element => parseFloat(getComputedStyle(element).fontSize)))
  }});
}};</script>
"""


def browse(tmp_path, content, *more):
    path = tmp_path / "opened.html"
    path.write_text(content, encoding="utf-8")
    quiet = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    command = [BROWSER, *quiet, "--virtual-time-budget=3000", "--window-size=1500,1000", *more, path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def measured_at(width, content, tmp_path):
    """Lay out a page in a window of some width, all of it unfolded; return what sticks out of it, and its letters."""
    quoted = content.replace("&", "&amp;").replace('"', "&quot;")
    dumped = browse(tmp_path, MEASURE.format(width=width, page=quoted), "--dump-dom")
    return json.loads(unescape(re.search(r"<pre>(.*?)</pre>", dumped, re.S)[1]))


PROBE = """<script>
  const texts = document.querySelectorAll("h1,h2,p,td,th,dd,dt,figcaption,footer,a,.name,.what,.part");
  const colors = [...texts].map(element => getComputedStyle(element).color);
  document.body.dataset.colors = JSON.stringify([...colors, getComputedStyle(document.body).backgroundColor]);
</script></body>"""


def luminances(content, tmp_path, *, scheme):
    """Return how light the texts of a page are, and its paper, in a light or dark browser."""
    content = content.replace("</body>", PROBE).replace("img-src", "script-src 'unsafe-inline'; img-src")
    flag = f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"
    dumped = browse(tmp_path, content, "--dump-dom", flag)
    colors = json.loads(unescape(re.search(r'data-colors="(.*?)"', dumped)[1]))
    *texts, paper = [luminance(color) for color in colors]
    return texts, paper


def luminance(color):
    """Relative luminance as WCAG 2 defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
