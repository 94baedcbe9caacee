"""Takes a picture of a report in a headless Chromium: `python -m reports.screenshot REPORT OUT`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer

from probes.errors import RequestError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--hide-scrollbars",
)


def browser() -> str:
    """The path of a Chromium. Raises RequestError where there is none."""
    for name in BROWSERS:
        found = shutil.which(name)
        if found:
            return found
    raise RequestError(
        f"`{BROWSERS[0]}` was not found, nor {', '.join(BROWSERS[1:])}: install Debian's package "
        "(`apt-get install chromium`) to take a screenshot."
    )


def take(report: Path, out: Path, *, width: int, height: int, dark: bool, anchor: str = "") -> None:
    """The picture of the report lies at `out`.

    Raises RequestError where there is no report, no browser, or no picture came of it.
    """
    if not report.is_file():
        raise RequestError(f"`{report}` was not found: name the report.html of a run folder.")
    program = browser()
    out = out.resolve()
    if anchor:
        _at(program, report, out, (width, height), dark, anchor)
        return
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            [
                program,
                *QUIET,
                f"--user-data-dir={profile}",
                f"--window-size={width},{height}",
                # 0 is dark, 1 is light
                f"--blink-settings=preferredColorScheme={0 if dark else 1}",
                f"--screenshot={out}",
                report.resolve().as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    if not out.is_file():
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise RequestError(f"`{program}` took no picture of `{report}`: {last}")


def _at(
    program: str, report: Path, out: Path, size: tuple[int, int], dark: bool, anchor: str
) -> None:
    """The picture of what the address names: the browser by itself takes none after scrolling."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise RequestError(
            "`playwright` was not found, which goes to an address in a page: `pip install "
            "playwright`, or leave `--anchor` out."
        ) from error
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        scheme: Literal["dark", "light"] = "dark" if dark else "light"
        context = opened.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme=scheme,
            reduced_motion="reduce",
        )
        page = context.new_page()
        page.goto(f"{report.resolve().as_uri()}#{anchor}")
        page.wait_for_timeout(500)
        page.screenshot(path=out)
        opened.close()


def main(
    report: Annotated[Path, typer.Argument(help="The report.html of a run.")],
    out: Annotated[Path, typer.Argument(help="The PNG file to write.")],
    dark: Annotated[bool, typer.Option("--dark", help="In dark colours.")] = False,
    width: int = 1280,
    height: int = 1600,
    anchor: Annotated[str, typer.Option(help="An address in the page to go to.")] = "",
) -> None:
    """Take a picture of a report."""
    try:
        take(report, out, width=width, height=height, dark=dark, anchor=anchor)
    except RequestError as error:
        print(f"screenshot: {error}", file=sys.stderr)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(main)
