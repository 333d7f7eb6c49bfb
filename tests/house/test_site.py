"""The site is built without a warning, its links lead somewhere, and nothing of it is fetched from elsewhere."""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import threading
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from once import filled_once
from public_names import documented_names, public_names

pytest.importorskip("sphinx", reason="sphinx is not installed (extra `docs`)")
pytestmark = pytest.mark.programs
ROOT = Path(__file__).parents[2]
BROWSER = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
MOVED = runpy.run_path(str(ROOT / "docs" / "extension" / "moved_pages.py"))["MOVED"]
LOADED = {"img": "src", "script": "src", "iframe": "src", "source": "src", "link": "href"}  # when a page is opened


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return filled_once(tmp_path_factory, "site", build)


def build(folder):
    shutil.rmtree(ROOT / "docs/reference/names", ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", "docs", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    warnings = [line for line in done.stderr.splitlines() if "WARNING: " in line or "ERROR: " in line]
    assert done.returncode == 0, "\n".join(warnings) or done.stderr[-3000:]


class Page(HTMLParser):
    """What a page can be linked to by, what it links to, and what a browser loads with it."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.loads = {""}, [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.anchors |= {values[key] for key in ("id", "name") if values.get(key)}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if values.get(LOADED.get(tag)) and values.get("rel") not in ("canonical", "search", "index", "next", "prev"):
            self.loads.append(values[LOADED[tag]])


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in site.rglob("*.html")}


def is_outside(address):
    return bool(re.match(r"[a-z]+:|//", address))


def test_every_link_and_anchor_leads_somewhere(pages):
    dead = []
    for path, page in pages.items():
        for link in page.links:
            file, anchor = urldefrag(link)
            target = (path.parent / unquote(file)).resolve() if file else path
            anchors = pages[target].anchors if target in pages else {""}
            if not is_outside(link) and not (target.exists() and unquote(anchor) in anchors):
                dead.append((path.name, link))
    assert sum(len(page.links) for page in pages.values()) > 1000
    assert not dead


def test_old_addresses_lead_to_pages(site, pages):
    for old, new in MOVED.items():
        address = os.path.relpath(site / f"{new}.html", (site / old).parent)
        assert (site / f"{new}.html") in pages
        assert pages[site / f"{old}.html"].links == [address]
        assert f"0; url={address}" in (site / f"{old}.html").read_text(encoding="utf-8")


def test_no_page_loads_anything_from_elsewhere(site, pages):
    loads = [(path, load) for path, page in pages.items() for load in page.loads]
    assert not [(path.name, load) for path, load in loads if is_outside(load) and not load.startswith("data:")]
    for path, load in loads:
        assert load.startswith("data:") or (path.parent / unquote(load.partition("?")[0])).exists(), (path.name, load)
    for sheet in site.rglob("*.css"):
        addresses = re.findall(r"""(?:url\(|@import)\s*["']?([^"')\s]+)""", sheet.read_text(encoding="utf-8"))
        assert not [address for address in addresses if re.match(r"https?:|//", address)], sheet.name


@pytest.mark.parametrize("name", documented_names())
def test_a_public_name_has_a_page_with_an_example(pages, site, name):
    page = site / "reference" / "names" / f"{name}.html"
    assert page in pages
    assert name in pages[page].anchors
    assert "&gt;&gt;&gt; " in page.read_text(encoding="utf-8")


def test_every_other_public_name_is_described_somewhere(pages):
    described = set().union(*(page.anchors for page in pages.values()))
    seen = {id(thing) for thing in documented_names().values()}
    assert not {name for name, thing in public_names().items() if id(thing) not in seen and name not in described}


MEASURE = """<!doctype html><meta charset="utf-8"><style>iframe {{ border: 0; width: 390px; height: 900px; }}</style>
<iframe></iframe><pre></pre><script>
const frame = document.querySelector("iframe"), pages = {pages}, wide = [];
frame.onload = () => {{
  const root = frame.contentDocument.documentElement;
  if (root.scrollWidth > 390) wide.push([pages[0], root.scrollWidth]);
  pages.shift();
  if (pages.length) frame.src = pages[0]; else document.querySelector("pre").textContent = JSON.stringify(wide);
}};
frame.src = pages[0];</script>"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.mark.skipif(BROWSER is None, reason="no chromium is installed (apt-get install chromium)")
def test_no_page_is_wider_than_a_phone(site, pages, tmp_path):
    names = [
        name for path in sorted(pages) if (name := str(path.relative_to(site))).removesuffix(".html") not in MOVED
    ]
    (site / "measure.html").write_text(MEASURE.format(pages=json.dumps(names)), encoding="utf-8")
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={tmp_path}"]
        address = f"http://127.0.0.1:{server.server_port}/measure.html"
        command = [BROWSER, *quiet, "--virtual-time-budget=60000", "--dump-dom", address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=os.environ)
        server.shutdown()
    match = re.search(r"<pre>(.+?)</pre>", done.stdout, re.S)
    assert match, done.stderr[-2000:]
    assert json.loads(unescape(match[1])) == []
