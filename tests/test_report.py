"""The report as readers meet it: whole, true, and without faults in a real browser."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sdoml_dist
from sdoml_dist.engine.run import build
from sdoml_dist.errors import StoreError
from sdoml_dist.recipe import Recipe
from sdoml_dist.recipe_file import parse_recipe
from sdoml_dist.report import charts
from sdoml_dist.report.charts import Scale, TimeAxis, number, path_data
from sdoml_dist.report.digest import OUTCOMES, column_edges, decimate, digest
from sdoml_dist.report.page import write_report
from sdoml_dist.report.tiles import tile
from sdoml_dist.report.view import DatasetView
from sdoml_dist.store.repository import create_tag, open_repository, session_at
from tests.conftest import small

_VOID = {"meta", "link", "img", "br", "hr", "input"}
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--hide-scrollbars", "--remote-debugging-port=0", "about:blank",
)  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, ray_cluster: Any) -> Recipe:
    recipe = parse_recipe(small(str(tmp_path_factory.mktemp("report") / "dataset")))
    build(recipe)
    repository = open_repository(recipe.store)
    create_tag(repository, "v1", session_at(repository, None).snapshot_id)
    return recipe


@pytest.fixture(scope="module")
def page(built: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(built.store.url, tmp_path_factory.mktemp("page") / "deep" / "report.html")


class Reader(HTMLParser):
    """Reads a page strictly: every tag is closed in its place. Keeps tags, references, ids and the text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.faults: list[str] = []
        self.references: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.references += [
            value or "" for name, value in attrs if name in ("src", "href", "action", "data", "xlink:href")
        ]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    return reader


class Tab:
    """One page of a headless browser, spoken to by the DevTools protocol."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._number, self.events = socket, 0, list[dict[str, Any]]()

    async def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            answer = await self._socket.receive_json(timeout=60)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)

    async def run(self, script: str) -> Any:
        answer = await self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def load(self, path: Path, width: int, scheme: str = "light", height: int = 900) -> None:
        phone = width < 600
        await self.send("Emulation.setDeviceMetricsOverride", width=width, height=height,
                        deviceScaleFactor=2 if phone else 1, mobile=phone)  # fmt: skip
        await self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        await self.send("Page.navigate", url=path.absolute().as_uri())
        for _ in range(200):
            if await self.run("document.readyState") == "complete":
                break
            await asyncio.sleep(0.05)
        await self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    async def screenshot(self, path: Path, whole: bool = True) -> None:
        answer = await self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def faults(self) -> list[str]:
        """Return what the browser complained about."""
        found = []
        for event in self.events:
            parameters = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(str(parameters["exceptionDetails"]))
            elif event.get("method") == "Runtime.consoleAPICalled" and parameters["type"] in (
                "error",
                "warning",
                "assert",
            ):
                found.append(str(parameters["args"]))
            elif event.get("method") == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
                found.append(str(parameters["entry"]))
        return found

    def requests(self) -> list[str]:
        """Return the addresses that were asked for, but for data inside the page."""
        urls = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith("data:")]


def find_browser() -> str | None:
    """Return a browser's program: SDOML_BROWSER, or Chromium or Chrome on the path."""
    return os.environ.get("SDOML_BROWSER") or next(filter(None, map(shutil.which, _BROWSERS)), None)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a headless browser and return the address of its page's socket."""
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium or Chrome on the path (apt-get install chromium, or set SDOML_BROWSER)")
    profile = tmp_path_factory.mktemp("profile")
    log = (profile / "log").open("w")
    command = [program, f"--user-data-dir={profile}", *_FLAGS]
    process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        yield asyncio.run(_page_address(profile / "DevToolsActivePort", process, profile / "log"))
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        log.close()


async def _page_address(file: Path, process: subprocess.Popen[bytes], log: Path) -> str:
    import aiohttp

    for _ in range(600):
        assert process.poll() is None, log.read_text()
        if file.is_file() and len(lines := file.read_text().splitlines()) == 2:
            async with aiohttp.ClientSession() as session:
                answer = await session.get(f"http://127.0.0.1:{lines[0]}/json/list")
                pages = [item for item in await answer.json() if item["type"] == "page"]
            if pages:
                return str(pages[0]["webSocketDebuggerUrl"])
        await asyncio.sleep(0.1)
    raise TimeoutError(log.read_text())


@asynccontextmanager
async def opened(address: str) -> AsyncIterator[Tab]:
    """Speak to the browser's page."""
    import aiohttp

    async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as socket:
        tab = Tab(socket)
        for domain in ("Page", "Runtime", "Log", "Network"):
            await tab.send(f"{domain}.enable")
        yield tab


def test_the_page_is_whole_and_needs_nothing_else(page: Path) -> None:
    reader = read(page)
    assert not reader.faults
    assert not reader.open
    assert page.stat().st_size < 3_000_000
    assert not [value for value in reader.references if not value.startswith(("data:", "#"))]
    ids = [found["id"] for _, found in reader.tags if "id" in found]
    assert len(ids) == len(set(ids))
    for value in reader.references:
        assert not value.startswith("#") or value[1:] in ids
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest", page.read_text(encoding="utf-8"))
    assert [path.name for path in page.parent.iterdir()] == [page.name]


def test_readers_without_eyes_are_told(page: Path) -> None:
    reader = read(page)
    for tag, found in reader.tags:
        if tag == "img":
            assert found["alt"]
        if tag == "svg" or "bar" in str(found.get("class")).split():
            assert found["role"] == "img"
            assert found["aria-label"]
    levels = [int(tag[1]) for tag, _ in reader.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert max(np.diff(levels)) <= 1


def test_every_count_is_that_of_the_accounting(built: Recipe, page: Path) -> None:
    counts = sdoml_dist.accounting(built.store.url)
    found = digest(DatasetView(built.store.url))
    for outcome in OUTCOMES:
        np.testing.assert_array_equal(found.outcome(outcome).sum(axis=0), counts[outcome].to_numpy()[:-1])
    text = " ".join(read(page).text)
    for name in (*built.channels, "all"):
        row = counts.loc[name]
        label = name if name == "all" else name.replace("A", "\N{NO-BREAK SPACE}Å")
        numbers = [f"{row[key]:,}" for key in ("planned", *OUTCOMES)]
        assert " ".join([label, *numbers]) in text
    reasons = sdoml_dist.frames(built.store.url).reason.value_counts()
    for reason, frames in reasons.drop("ok").items():
        assert f"{str(reason).replace('_', ' ')} {frames}" in text
    assert "v1" in text
    assert "tile 1" in text or "failed read" in text


def test_gaps_stay_gaps(built: Recipe) -> None:
    view = DatasetView(built.store.url)
    found = digest(view)
    assert found.unit == "slot"
    table = sdoml_dist.frames(built.store.url)
    for index, channel in enumerate(built.channels):
        ok = (table[table.channel == channel].outcome == "ok").to_numpy()
        for curves in found.curves.values():
            np.testing.assert_array_equal(np.isfinite(curves.value[:, index]), ok)
        drawn = path_data(np.linspace(0, 1, ok.size), found.curves["mean"].value[:, index])
        strokes = int(np.count_nonzero(np.diff(np.concatenate([[0], ok.astype(int)])) == 1))
        assert drawn.count("M") == strokes > 1
    # Each frame that is not ok is a cell of its own colour, unless its neighbour is the same.
    cells = read_cells(page_text := charts.coverage(TimeAxis(view.start, view.end), found, view.channels, view.label))
    for index in range(len(built.channels)):
        assert set(cells["cells"][index]) == {str(i) for i in np.flatnonzero(found.outcome("ok")[:, index] == 0)}
    assert 'class="failed l5"' in page_text or not found.outcome("failed").any()


def read_cells(text: str) -> dict[str, Any]:
    """Return the data that the script shows where the pointer is."""
    found = re.search(r'<script type="application/json">(.*?)</script>', text)
    assert found is not None
    return dict(json.loads(found[1]))


def test_old_versions_and_unfinished_datasets(built: Recipe, tmp_path: Path) -> None:
    commits = [info.id for info in open_repository(built.store).ancestry(branch="main")]
    text = " ".join(read(write_report(built.store.url, tmp_path / "v1.html", "v1")).text)
    assert f"tag v1 {commits[0]}" in " ".join(text.split())
    # The commit that created the dataset: every frame is pending, there is no image and no statistics.
    first = write_report(built.store.url, tmp_path / "first.html", commits[-2])
    reader = read(first)
    assert not reader.faults
    text = " ".join(reader.text)
    assert "older commit" in text
    assert "all 40 0 0 0 0 40" in text
    assert "img" not in {tag for tag, _ in reader.tags}
    with pytest.raises(StoreError, match="no version 'v9'"):
        write_report(built.store.url, tmp_path / "x.html", "v9")
    assert not (tmp_path / "x.html").exists()


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory, ray_cluster: Any) -> Path:
    """Return the page about a dataset of images, fields, and numbers."""
    url = str(tmp_path_factory.mktemp("products") / "several")
    period = {"start": "2011-02-15T00:00", "end": "2011-02-15T01:00"}
    eve = {"cadence": "1min", "tolerance": "30s", "chunking": {"shard_slots": 60}}
    for changes in (
        {"channels": ["171A"]},
        {"product": "hmi", "name": "field", "channels": ["Bx", "By", "Bz"], "cadence": "12min"},
        {"product": "eve", "name": "lines", "channels": ["Fe XVIII", "He II"], **eve},
    ):
        build(parse_recipe(small(url, period=period, **changes)))
    return write_report(url, tmp_path_factory.mktemp("page") / "several.html")


def test_every_product_has_its_part(products: Path) -> None:
    reader = read(products)
    assert not reader.faults
    ids = [found["id"] for _, found in reader.tags if "id" in found]
    assert len(ids) == len(set(ids))
    assert {"aia", "hmi", "eve", "aia-frames", "hmi-coverage", "eve-statistics", "versions"} <= set(ids)
    assert "aia-exposure" in ids
    assert "eve-exposure" not in ids
    assert [tag for tag, _ in reader.tags].count("h1") == 1
    text = " ".join(reader.text)
    for name in ("AIA", "HMI vector field", "EVE lines", "Bx", "Fe XVIII", "171\N{NO-BREAK SPACE}Å", 'product="eve"'):
        assert name in text, name
    assert sum(tag == "img" for tag, _ in reader.tags) in (3, 4)


def test_text_is_escaped(tmp_path: Path) -> None:
    cell = charts.stacked_bar({"ok": 1, "missing": 0, "rejected": 0, "failed": 0, "pending": 0}, '<b>"&')
    assert "&lt;b&gt;&quot;&amp;" in cell
    assert charts.colour_key('"><script>', 10) == "n1"


@pytest.mark.parametrize(
    ("start", "end", "cadence", "unit", "columns"),
    [
        ("2011-02-15T00:00", "2011-02-15T02:00", 360, "slot", 20),
        ("2011-02-15T00:00", "2011-02-22T12:00", 360, "hour", 180),
        ("2011-02-15T12:00", "2011-12-31T00:00", 360, "day", 319),
        ("2010-05-13", "2015-05-13", 360, "week", 261),
        ("2010-05-13", "2027-01-01", 12, "month", 200),
    ],
)
def test_columns_are_as_fine_as_can_be_read(start: str, end: str, cadence: int, unit: str, columns: int) -> None:
    first, last = np.datetime64(start, "ns"), np.datetime64(end, "ns")
    found, edges = column_edges(first, last, cadence)
    assert (found, len(edges) - 1) == (unit, columns)
    assert (edges[0], edges[-1]) == (first, last)
    assert (np.diff(edges) > np.timedelta64(0, "ns")).all()
    assert 2 <= len(TimeAxis(first, last).ticks()) <= 10


def test_decimation_keeps_every_extreme_and_every_gap() -> None:
    rng = np.random.default_rng(0)
    time = np.datetime64("2011-01-01", "ns") + np.arange(1003) * np.timedelta64(360, "s")
    value = rng.standard_normal((1003, 2))
    value[100:200] = np.nan
    value[500, 0] = 99.0
    thin = decimate(time, value, 10)
    assert thin.value.shape == (202, 2)
    assert np.nanmax(thin.value[:, 0]) == 99.0
    assert thin.time[np.nanargmax(thin.value[:, 0]), 0] == time[500]
    np.testing.assert_array_equal(np.nanmin(thin.value, axis=0), np.nanmin(value, axis=0))
    assert np.isnan(thin.value[20:40]).all()
    assert np.isfinite(thin.value[40:]).all()
    assert (np.diff(thin.time[40:, 0]) >= np.timedelta64(0, "ns")).all()


def test_scales_and_numbers() -> None:
    assert [number(v) for v in (0, 1234.5, 0.05, -2.0, 2.5e12, np.nan)] == [
        "0", "1,234", "0.05000", "−2.000", "2.50 × 10¹²", "–"
    ]  # fmt: skip
    assert Scale.of(np.array([1.0, 1000.0])).logarithmic
    assert not Scale.of(np.array([-1.0, 1000.0])).logarithmic
    flat = Scale.of(np.array([2.9, 2.9]))
    assert flat.low < 2.9 < flat.high
    for scale in (Scale(0, 1), Scale(-3, 7.5), Scale(2e-5, 3e-5), Scale(0.3, 4e5, True), Scale(2, 90, True)):
        ticks = scale.ticks()
        assert 1 <= len(ticks) <= 4
        assert all(0 <= at <= 1 for at, _ in ticks)
    assert path_data(np.array([0, 0.5, 1]), np.array([0.5, np.nan, 0.5])) == "M0 50h0M1000 50h0"
    assert path_data(np.linspace(0, 1, 5), np.full(5, 0.25)) == "M0 75L1000 75"


def test_a_tile_is_a_png_with_north_up(tmp_path: Path) -> None:
    from matplotlib.image import imread

    image = np.full((600, 600), np.nan, np.float32)
    image[400:500, 100:200] = 1000.0
    image[100:300, 100:300] = 10.0
    target = tmp_path / "tile.png"
    target.write_bytes(tile(image, "gray"))
    picture = imread(target)
    assert picture.shape[:2] == (200, 200)
    assert picture[50, 50, 0] == 1.0
    assert picture[150, 50, 0] < 0.5
    target.write_bytes(tile(np.linspace(-100, 100, 101)[None].repeat(101, 0), "gray", signed=True))
    signed = imread(target)[0, :, 0]
    assert signed[50] == pytest.approx(0.5, abs=0.01)
    assert signed[0] < signed[50] < signed[100]


def test_text_has_contrast_in_both_schemes() -> None:
    style = resources.files("sdoml_dist.report").joinpath("page.css").read_text(encoding="utf-8")
    schemes = re.findall(r":root \{(.*?)\}", style, re.S)
    assert len(schemes) == 3

    def luminance(colour: str) -> float:
        digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
        parts = np.array([int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    for scheme in schemes:
        colours = dict(re.findall(r"--([\w-]+): #([0-9a-f]+);", scheme))
        names = [name for name in colours if name in ("ink", "soft") or re.fullmatch(r"c\d+|\w+-ink", name)]
        assert len(names) == 16
        for ground in ("paper", "faint"):
            for name in names:
                light, dark = sorted((luminance(colours[name]), luminance(colours[ground])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (name, ground)


_WIDE = """(() => {
  const wide = document.documentElement.clientWidth, inside = (e) => e.closest('.scroll, nav, #tip');
  return [...document.querySelectorAll('body *')].filter((e) => !inside(e)).map((e) => [e, e.getBoundingClientRect()])
    .filter(([e, box]) => box.width && (box.right > wide + 0.5 || box.left < -0.5))
    .map(([e, box]) => `${e.tagName}.${e.className} ${e.textContent.slice(0, 30)} ${box.left} ${box.right}`);
})()"""
_SIZES = """[...document.querySelectorAll('svg, img')].map((e) => e.getBoundingClientRect()).map((b) => [b.width, b.height])"""
_COVERED = """(() => {
  const near = [...document.querySelectorAll('.values, .ends, .axis')].map((group) => [...group.children]
    .map((e) => e.getBoundingClientRect()).filter((b) => b.width));
  const over = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom - 1 && b.top < a.bottom - 1;
  return near.flatMap((boxes) => boxes.flatMap((a, i) => boxes.slice(i + 1).filter((b) => over(a, b)).map((b) =>
    `${a.left} ${a.top} ${a.width} covers ${b.left} ${b.top} ${b.width}`)));
})()"""


@pytest.mark.parametrize("which", ["page", "products"])
def test_a_real_browser_shows_it(which: str, browser: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    page: Path = request.getfixturevalue(which)

    async def look() -> None:
        async with opened(browser) as tab:
            colours = set()
            for width in (1400, 400, 320):
                for scheme in ("light", "dark"):
                    await tab.load(page, width, scheme)
                    await tab.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
                    # A page that overflows makes a phone zoom out: then the view is wider than the screen.
                    assert await tab.run("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
                    assert await tab.run(_WIDE) == []
                    sizes = await tab.run(_SIZES)
                    assert len(sizes) > 8
                    assert all(across > 20 and down > 10 for across, down in sizes)
                    assert await tab.run(_COVERED) == [], (width, scheme)
                    colours.add(await tab.run("getComputedStyle(document.documentElement).backgroundColor"))
                    assert await tab.run("[...document.images].every((e) => e.complete && e.naturalWidth > 0)")
                    await tab.screenshot(tmp_path / "page.png")
                    assert (tmp_path / "page.png").stat().st_size > 20_000
            assert len(colours) == 2
            assert tab.faults() == []
            assert set(tab.requests()) == {page.absolute().as_uri()}

    asyncio.run(look())


def test_pointing_tells_the_counts_and_values(built: Recipe, page: Path, browser: str) -> None:
    table = sdoml_dist.frames(built.store.url)
    table = table[table.channel == "171A"].reset_index()
    bad = int(np.flatnonzero(table.outcome != "ok")[0])
    good = int(np.flatnonzero(table.outcome == "ok")[-1])

    async def point(tab: Tab, selector: str, at: float) -> str:
        await tab.run("document.documentElement.style.scrollBehavior = 'auto'")
        await tab.run(f"document.querySelector('{selector}').scrollIntoView({{block: 'center'}})")
        await tab.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")
        place = f"document.querySelector('{selector} .plot').getBoundingClientRect()"
        left, top, across, down = await tab.run(f"(b => [b.left, b.top, b.width, b.height])({place})")
        await tab.send("Input.dispatchMouseEvent", type="mouseMoved", x=left + at * across, y=top + down / 2)
        assert await tab.run("!document.getElementById('tip').hidden")
        return re.sub("\n+", "\n", await tab.run("document.getElementById('tip').innerText"))

    async def look() -> None:
        async with opened(browser) as tab:
            await tab.load(page, 1400)
            told = await point(tab, "#coverage .chart", (bad + 0.5) / len(table))
            assert told.split("\n")[1:] == [f"1 {table.reason[bad].replace('_', ' ')}"]
            assert f"{table.time[bad]:%Y-%m-%d %H:%M}" in told
            assert (await point(tab, "#coverage .chart", (good + 0.5) / len(table))).endswith("1 ok")
            told = await point(tab, "#light .chart", good / len(table))
            read_out = re.search(r"171\sÅ\s+([\d.]+)", told)
            assert read_out is not None
            assert float(read_out[1]) == pytest.approx(table["mean"][good], rel=2e-3)
            assert "no data" in await point(tab, "#light .chart", bad / len(table))
            # The keyboard does it too, and Escape ends it.
            await tab.run("document.querySelector('#coverage .chart').focus()")
            for key in ("ArrowRight", "ArrowDown"):
                await tab.send("Input.dispatchKeyEvent", type="keyDown", key=key)
            assert await tab.run("document.getElementById('tip').innerText.startsWith('304')")
            await tab.send("Input.dispatchKeyEvent", type="keyDown", key="Escape")
            assert await tab.run("document.getElementById('tip').hidden")
            assert tab.faults() == []

    asyncio.run(look())


def test_it_prints_on_white_paper(page: Path, browser: str, tmp_path: Path) -> None:
    async def look() -> None:
        async with opened(browser) as tab:
            await tab.load(page, 1400, "dark")
            await tab.send("Emulation.setEmulatedMedia", media="print",
                           features=[{"name": "prefers-color-scheme", "value": "dark"}])  # fmt: skip
            assert await tab.run("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
            assert await tab.run("getComputedStyle(document.querySelector('nav')).display") == "none"
            answer = await tab.send("Page.printToPDF", printBackground=True)
            assert base64.b64decode(answer["data"]).startswith(b"%PDF")

    asyncio.run(look())
