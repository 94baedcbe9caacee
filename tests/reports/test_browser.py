"""What a reader meets: pages in a headless Chromium, on desk, phone and paper, light and dark."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probes.finding import Evidence, Finding, Judgement, NotJudged, Verdict
from probes.record import Recorder
from probes.run import Run
from reports import render
from reports.figures.attention_map import STEP
from reports.screenshot import BROWSERS

CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed"),
]
DESK, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


class Visit:
    """A page that was opened, with all that it said and asked for."""

    def __init__(self, browser: Any, path: Path, address: str = "", **how: Any) -> None:
        self.context = browser.new_context(viewport=how.pop("viewport", DESK), **how)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri() + address)

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *error: object) -> None:
        self.context.close()
        assert self.said == []
        assert [url for url in self.asked if not url.startswith(("file:", "data:"))] == []


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory, attention: Any) -> Path:
    """A report with a failing lead, a story, source lines, warnings, a graph, arrays, memory."""
    folder = tmp_path_factory.mktemp("poisoned")
    source = folder / "train.py"
    source.write_text("\n".join(f"x{line} = '<b>'" for line in range(20)))
    told = {"by_site": [["encoder", "forward", 3 << 30], ["head", None, 1 << 20]]}
    recorder = Recorder(folder / "run", settings={"out_of_memory": {**told, "step": 2}})
    for step in range(30):
        norms = {"w": float("nan") if step > 20 else 1.0, "b": 0.0}
        recorder.values(step, "param_grad", "norm", norms)
        recorder.values(step, "clip", "total_norm", {"<optimizer>": 10.0 - step / 10})
        recorder.values(step, "clip", "factor", {"<optimizer>": 0.1})
    recorder.array("index-alignment", np.eye(6), ("unit", "token"), {"unit": list("abcdef")})
    attention(recorder, 0)
    reads = {"name": "a", "op": "LogBackward0", "site": "head", "source": "t.py:1", "reads": ["w"]}
    leaf = {"name": "w", "op": "AccumulateGrad", "site": "", "source": None, "reads": []}
    recorder.graph("graph-000", {"total": 2, "operators": [{**reads, "guilty": True}, leaf]})
    story = [Evidence("story", words) for words in ("forward: aten.log: NaN", "not finite: w")]
    evidence = (Evidence("loss", 0.5, "finite", step=20), *story, Evidence("x", 1.0, 2.0))
    findings = (
        Finding("NAN001", "log-of-zero", Verdict.FAIL, "`aten.log` takes the log of 0.", "Do.",
                site="head", source=f"{source}:7", evidence=evidence, confirmed=True),
        Finding("GRD001", "vanishing", Verdict.WARN, "Small.", "Raise.", site="w"),
        Finding("FIT001", "memorised", Verdict.NOTE, "Fine.", "Go on."),
    )  # fmt: skip
    recorder.close(Judgement(findings, (NotJudged("GRD009", "no data"),), ("FIT004",)))
    return render(folder / "run")


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_the_verdict_is_seen_without_scrolling(
    chromium: Any, poisoned: Path, viewport: dict[str, int]
) -> None:
    with Visit(chromium, poisoned, viewport=viewport) as visit:
        for what in (".verdict strong", ".verdict h1", ".verdict .fix"):
            box = visit.page.locator(what).first.bounding_box()
            assert box["y"] >= 0
            assert box["y"] + box["height"] <= viewport["height"]
        wide = visit.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= viewport["width"]
        assert visit.page.title() == "Failing · run"


def test_all_but_the_lead_is_folded_and_one_click_away(chromium: Any, poisoned: Path) -> None:
    with Visit(chromium, poisoned) as visit:
        page = visit.page
        assert page.locator("#NAN001-head .story li").first.is_visible()
        assert page.locator("#NAN001-head .culprit").is_visible()
        outer = page.locator("details.fold, details.card")
        folded = outer.evaluate_all("all => all.map(each => each.open)")
        assert folded
        assert not any(folded)
        page.locator("#GRD001-w summary").click()
        assert page.locator("#GRD001-w .fix").is_visible()
        page.locator("nav a[href='#graph']").click()
        assert page.locator("#graph figure svg").is_visible()


def test_an_address_unfolds_what_it_names(chromium: Any, poisoned: Path) -> None:
    for address in ("GRD001-w", "graph-000", "clip-run", "array-index-alignment", "rules"):
        with Visit(chromium, poisoned, f"#{address}") as visit:
            assert visit.page.locator(f"[id='{address}'] >> :nth-match(p, 1)").first.is_visible()
    with Visit(chromium, poisoned, "#clip-run", java_script_enabled=False) as visit:
        assert visit.page.locator("#clip-run figcaption").is_visible()


def test_keys_go_from_item_to_item(chromium: Any, poisoned: Path) -> None:
    with Visit(chromium, poisoned) as visit:
        page = visit.page
        seen = []
        for _ in range(3):
            page.keyboard.press("j")
            page.wait_for_timeout(700)  # it scrolls smoothly
            seen.append(page.evaluate("location.hash"))
        assert seen == ["#NAN001-head", "#GRD001-w", "#FIT001"]
        page.keyboard.press("e")
        assert page.locator("main details:not([open])").count() == 0
        page.keyboard.press("g")
        assert page.evaluate("location.hash") == "#verdict"
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.tagName") in ("A", "PRE")


def test_every_link_leads_somewhere(chromium: Any, poisoned: Path, main_job: Path) -> None:
    lost = "all => all.map(a => a.getAttribute('href')).filter(h => !document.getElementById(h.slice(1)))"  # noqa: E501
    for report in (poisoned, main_job / "report.html"):
        with Visit(chromium, report) as visit:
            assert visit.page.locator("a[href]").evaluate_all(lost) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(chromium: Any, poisoned: Path, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.base", reason="axe is not installed")
    with Visit(chromium, poisoned, color_scheme=scheme, bypass_csp=True) as visit:
        visit.page.keyboard.press("e")  # what is folded is looked at too
        visit.page.evaluate(axe.AXE_SCRIPT)
        found = visit.page.evaluate("axe.run()")
        assert "color-contrast" in {each["id"] for each in found["passes"]}
        serious = {
            each["id"]: [node["html"][:200] for node in each["nodes"][:3]]
            for each in found["violations"]
            if each["impact"] in ("serious", "critical")
        }
        assert serious == {}


def test_dark_has_no_white_island(chromium: Any, poisoned: Path, tmp_path: Path) -> None:
    from PIL import Image

    with Visit(chromium, poisoned, color_scheme="dark") as visit:
        visit.page.keyboard.press("e")
        visit.page.screenshot(path=tmp_path / "dark.png", full_page=True)
    grey = np.array(Image.open(tmp_path / "dark.png").convert("L"))
    blocks = grey[: len(grey) // 20 * 20, :1280].reshape(-1, 20, 64, 20)
    assert (blocks.min(axis=(1, 3)) > 200).sum() == 0  # no 20 x 20 pixels are all pale


def test_paper_holds_everything_unfolded(chromium: Any, poisoned: Path, tmp_path: Path) -> None:
    with Visit(chromium, poisoned, color_scheme="dark") as visit:
        page = visit.page
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print")
        assert not page.locator("nav").is_visible()
        assert page.locator("#FIT001 .fix").is_visible()
        assert page.locator("#appendix .command").is_visible()
        assert page.locator("#graph-000 .picture").is_visible()
        assert not page.locator("#graph-000 table").is_visible()  # unless it was unfolded
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == "rgb(255, 255, 255)"
        page.pdf(path=tmp_path / "page.pdf", format="A4")
        assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_hover_tells_the_recorded_weight_within_its_step(chromium: Any, main_job: Path) -> None:
    with Visit(chromium, main_job / "report.html", "#attention") as visit:
        page = visit.page
        page.keyboard.press("e")
        map_ = page.locator(".map").first
        figure = map_.evaluate("each => each.closest('[data-figure]').dataset.figure")
        head = int(map_.get_attribute("data-head"))
        part, _, name = figure.partition("-attention-")
        array = Run(main_job / "parts" / part).array(f"attention-{name}")
        image = map_.locator("image.values")
        image.scroll_into_view_if_needed()
        box = image.bounding_box()
        rows, columns = array.values.shape[1:]
        for row, column in ((0, 0), (3, 7), (15, 27)):
            x = box["x"] + (column + 0.5) / columns * box["width"]
            y = box["y"] + (row + 0.5) / rows * box["height"]
            page.mouse.move(x, y)
            page.wait_for_function("document.getElementById('value').textContent")
            told = page.locator("#value").text_content()
            found = re.fullmatch(r"(.*) → (.*): ≈ ([\d.]+)", told)
            assert found is not None, told
            assert found[1] == array.about["queries"][row]
            assert found[2] == array.about["keys"][column]
            weight = float(array.values[head, row, column])
            assert float(found[3]) == pytest.approx(weight, abs=STEP + 0.0006)


def test_a_table_of_heads_sorts(chromium: Any, main_job: Path) -> None:
    with Visit(chromium, main_job / "report.html", "#attention") as visit:
        page = visit.page
        page.keyboard.press("e")
        table = page.locator("table.sortable").first
        button = table.locator("th button", has_text="entropy")
        cells = "rows => rows.map(row => Number(row.cells[3].textContent))"
        for by in (1, -1):
            button.click()
            found = table.locator("tbody tr").evaluate_all(cells)
            assert found == sorted(found, reverse=by < 0)
        assert table.locator("th[aria-sort='descending']").count() == 1


def test_a_list_of_runs_is_filtered(chromium: Any, tmp_path: Path) -> None:
    from reports.render import render_index

    for name, found in (("good", ()), ("bad", (Finding("A", "a", Verdict.FAIL, "m", "f"),))):
        Recorder(tmp_path / name).close(Judgement(found))
    with Visit(chromium, render_index(tmp_path)) as visit:
        visit.page.get_by_label("Filter rows").fill("failing")
        assert visit.page.locator("tbody tr:visible").count() == 1
        assert "bad" in (visit.page.locator("tbody tr:visible").text_content() or "")


def test_a_long_page_of_attention_opens_quickly_and_is_whole_without_a_script(
    chromium: Any, tmp_path: Path
) -> None:
    recorder = Recorder(tmp_path / "run", settings={"part": "attention", "subject": "t.py:s"})
    rng = np.random.default_rng(0)
    names = [f"word{place}" for place in range(512)]
    for layer in range(12):
        weights = np.zeros((12, 512, 512), np.float32)
        keys = rng.integers(0, 512, (12, 512, 24))
        np.put_along_axis(weights, keys, rng.random(keys.shape, np.float32) / 12, -1)
        about = {"site": f"layer.{layer}", "layer": layer, "sample": 0}
        recorder.array(
            f"attention-{layer:03d}", weights, ("head", "token", "token"), {}, **about,
            queries=names, keys=names,
        )  # fmt: skip
    recorder.close()
    report = render(tmp_path / "run")
    assert report.stat().st_size <= 5 * 2**20
    with Visit(chromium, report, java_script_enabled=False) as visit:
        page = visit.page
        assert page.locator("svg.small image").count() == 144
        assert page.locator(".map").count() >= 1
        timing = page.evaluate("JSON.stringify(performance.getEntriesByType('navigation')[0])")
        assert json.loads(timing)["loadEventEnd"] > 0
