"""How large the page of `tombola explore` is, how fast it opens, and how long a step of its slider takes, in Chromium.

    tombola explore SPEC -o explorer.html
    python benchmarks/explorer.py explorer.html

A step is what one event of the slider does until the next frame can be drawn: to unpack the level's masks and weights,
where that was not done before, and to draw everything. Each level is stepped to for the first time, then all again.
"""

import argparse
import shutil
import statistics
import time
from pathlib import Path

from playwright.sync_api import CDPSession, Page, sync_playwright

STEP = """async (place) => {
  const slider = document.getElementById("level");
  const begin = performance.now();
  slider.value = place;
  slider.dispatchEvent(new Event("input"));
  while (document.body.dataset.busy) await new Promise((resolve) => setTimeout(resolve, 0));
  return performance.now() - begin;
}"""


def steps(page: Page) -> list[float]:
    """Milliseconds of each step from the first level to the last, and back, until all is drawn."""
    last = int(page.locator("#level").get_attribute("max") or 0)
    places = [*range(last + 1), *reversed(range(last))]
    return [float(page.evaluate(STEP, place)) for place in places]


def busy(session: CDPSession) -> float:
    """For how many milliseconds the page's own thread had a processor so far, whatever else the machine does."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return 1000 * float(next(each["value"] for each in metrics if each["name"] == "TaskDuration"))


def main() -> None:
    """Print a line for each number."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    path = parser.parse_args().page.absolute()
    print(f"size: {path.stat().st_size / 1e6:.2f} MB")
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = opened.new_page(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
        begin = time.perf_counter()
        page.goto(path.as_uri())
        page.locator("body[data-shown]").wait_for(state="attached")
        print(f"opens in: {time.perf_counter() - begin:.2f} s")
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        for name in ("first time", "again"):
            before = busy(session)
            found = sorted(steps(page))
            processor = (busy(session) - before) / len(found)
            print(
                f"a step, {name}: median {statistics.median(found):.1f} ms, "
                f"95 % under {found[int(0.95 * len(found))]:.1f} ms, largest {found[-1]:.1f} ms; "
                f"{processor:.1f} ms of a processor on average"
            )
        opened.close()


if __name__ == "__main__":
    main()
