"""Open every built page in headless Chromium: no broken picture, no console error, nothing from elsewhere.

    make docs && python docs/check_pages.py [--screenshots DIR]

Needs Chromium (or Google Chrome) on the PATH, and playwright, which comes with the extra ``docs``. Exit
status: 0 when all is well, 1 when something is not, 2 where there is no browser to check with.
"""

import argparse
import shutil
import sys
from pathlib import Path

BROWSERS = "chromium", "chromium-browser", "google-chrome"
LOCAL = "file:", "data:"
BUILT = Path(__file__).parent / "_build" / "html"
BROKEN = """() => {
    document.querySelectorAll("img").forEach(i => { i.loading = "eager"; });
    return Promise.all([...document.images].map(i => i.decode().then(() => null, () => i.src)))
        .then(found => ({broken: found.filter(Boolean), count: document.images.length}));
}"""


def check(page, path: Path) -> tuple[int, list[str]]:
    """Return how many pictures a page shows, and what is wrong with it."""
    faults: list[str] = []
    hooks = {
        "console": lambda m: faults.append(f"console: {m.text}") if m.type in ("error", "warning") else None,
        "pageerror": lambda error: faults.append(f"script: {error}"),
        "requestfailed": lambda request: faults.append(f"not loaded: {request.url}"),
        "request": lambda r: None if r.url.startswith(LOCAL) else faults.append(f"fetched: {r.url}"),
    }
    for event, hook in hooks.items():
        page.on(event, hook)
    page.goto(path.resolve().as_uri(), wait_until="load")
    pictures = page.evaluate(BROKEN)
    for event, hook in hooks.items():
        page.remove_listener(event, hook)
    return pictures["count"], faults + [f"broken picture: {source}" for source in pictures["broken"]]


def main() -> int:
    """Check all pages and print a line for each that has faults."""
    parser = argparse.ArgumentParser(description="Open every built page in headless Chromium.")
    parser.add_argument("--screenshots", type=Path, metavar="DIR", help="keep a picture of each page there")
    arguments = parser.parse_args()
    pages = sorted(p for p in BUILT.rglob("*.html") if "_static" not in p.parts)  # the theme's templates
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not pages:
        print(f"check_pages: no pages in {BUILT}: make docs", file=sys.stderr)
        return 1
    if browser is None:
        print(f"check_pages: skipped: none of {', '.join(BROWSERS)} is installed", file=sys.stderr)
        return 2
    from playwright.sync_api import sync_playwright

    total, wrong = 0, 0
    with sync_playwright() as playwright:
        window = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = window.new_page(viewport={"width": 1280, "height": 1000})
        for path in pages:
            name = path.relative_to(BUILT)
            count, faults = check(page, path)
            total, wrong = total + count, wrong + bool(faults)
            for fault in faults:
                print(f"{name}: {fault}")
            if arguments.screenshots:
                target = arguments.screenshots / f"{'-'.join(name.with_suffix('').parts)}.png"
                page.screenshot(path=target, full_page=True)
        window.close()
    print(f"{len(pages)} pages, {total} pictures; {wrong} pages with faults")
    return 1 if wrong or not total else 0


if __name__ == "__main__":
    sys.exit(main())
