"""Opens the latent page in a headless Chromium, measures and pictures it.

    python docs/latent/browser.py

writes figures/latent_page.png, and prints how many digits a second the page
decodes under a moving pointer. It needs Chromium and its driver from the
system (`apt-get install chromium chromium-driver`), and Selenium.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import time
from collections.abc import Iterator

from selenium import webdriver

ROOT = pathlib.Path(__file__).parent.parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def programs() -> tuple[str, str]:
    """Returns the paths of the system's Chromium and of its driver.

    Raises:
        FileNotFoundError: if one of them is missing.
    """
    found = [shutil.which(name) for name in BROWSERS]
    browser = next((path for path in found if path), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        missing = "Chromium" if browser is None else "chromedriver"
        raise FileNotFoundError(
            f"Expected a Chromium and its driver on the PATH. Received: no "
            f"{missing}. On Debian: apt-get install chromium chromium-driver"
        )
    return browser, driver


@contextlib.contextmanager
def opened(
    page: pathlib.Path,
    width: int = 1200,
    height: int = 900,
    dark: bool = False,
) -> Iterator[webdriver.Chrome]:
    """Opens a page from the file system, and closes the browser at the end.

    Args:
        page: the HTML file.
        width, height: of the window's inside, in CSS pixels.
        dark: whether the system is set to dark colours.
    """
    browser, driver = programs()
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    options.add_argument("--headless=new")
    options.add_argument("--disable-gpu")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        # Chromium's sandbox does not start for root, as in containers.
        options.add_argument("--no-sandbox")
    options.add_argument("--disable-dev-shm-usage")
    # What the page asks of the network, and what its console says.
    options.set_capability(
        "goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"}
    )
    service = webdriver.ChromeService(executable_path=driver)
    chrome = webdriver.Chrome(options=options, service=service)
    try:
        chrome.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {
                "width": width,
                "height": height,
                "deviceScaleFactor": 1,
                "mobile": False,
            },
        )
        scheme = {
            "name": "prefers-color-scheme",
            "value": "dark" if dark else "light",
        }
        chrome.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [scheme]}
        )
        chrome.get(page.resolve().as_uri())
        wait_for(chrome, "document.body.classList.contains('ready')")
        yield chrome
    finally:
        chrome.quit()


def wait_for(chrome, condition: str, seconds: float = 60) -> None:
    """Waits until a JavaScript expression is true.

    Raises:
        TimeoutError: if it does not become so, with the console's messages.
    """
    end = time.monotonic() + seconds
    while not chrome.execute_script(f"return Boolean({condition})"):
        if time.monotonic() > end:
            messages = [entry["message"] for entry in chrome.get_log("browser")]
            raise TimeoutError(
                f"Expected `{condition}` within {seconds:g} s. The console "
                f"says: {messages or 'nothing'}"
            )
        time.sleep(0.05)


def requests(chrome) -> list[str]:
    """Returns the addresses that the page has asked for since last time."""
    messages = [
        json.loads(entry["message"])["message"]
        for entry in chrome.get_log("performance")
    ]
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]


# In each frame of some seconds the pointer moves on a circle over the map.
_FRAME_RATE = """
const [seconds, done] = arguments;
const map = document.getElementById("map");
const box = map.getBoundingClientRect();
const first = latent.state.frames;
let start, frames = 0;
function next(now) {
  start ??= now;
  const angle = (now - start) / 500;
  map.dispatchEvent(new PointerEvent("pointermove", {
    clientX: box.left + box.width * (0.5 + 0.3 * Math.cos(angle)),
    clientY: box.top + box.height * (0.5 + 0.3 * Math.sin(angle)),
  }));
  if (now - start < 1000 * seconds) { frames++; requestAnimationFrame(next); }
  else done([frames, latent.state.frames - first, (now - start) / 1000]);
}
requestAnimationFrame(next);
"""


def frame_rate(chrome, seconds: float = 5) -> dict[str, float]:
    """Measures the page under a moving pointer.

    Returns:
        Frames and decoded digits a second, and the milliseconds that the
        page's thread computes for each frame, which other programs on the
        machine do not change: 60 frames a second need less than 16.7.
    """
    chrome.execute_cdp_cmd("Performance.enable", {})
    before = _thread_seconds(chrome)
    frames, digits, passed = chrome.execute_async_script(_FRAME_RATE, seconds)
    return {
        "frames": frames / passed,
        "digits": digits / passed,
        "milliseconds": 1000 * (_thread_seconds(chrome) - before) / frames,
    }


def _thread_seconds(chrome) -> float:
    metrics = chrome.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return {x["name"]: x["value"] for x in metrics}["ThreadTime"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--page",
        type=pathlib.Path,
        default=ROOT / "docs" / "_build" / "latent.html",
    )
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=ROOT / "figures" / "latent_page.png",
    )
    parser.add_argument("--width", type=int, default=1200)
    parser.add_argument("--height", type=int, default=1000)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument(
        "--whole", action="store_true", help="the page down to its end"
    )
    options = parser.parse_args()
    if not options.page.exists():
        raise FileNotFoundError(
            f"Expected the page {options.page.name}. Received: no such "
            "file. Build it first: python docs/latent/build.py"
        )
    size = (options.width, options.height, options.dark)
    with opened(options.page, *size) as chrome:
        wait_for(chrome, "latent.state.draws.length === 5000")
        speed = frame_rate(chrome)
        print(
            f"{speed['frames']:.0f} frames and {speed['digits']:.0f} decoded "
            f"digits a second, {speed['milliseconds']:.1f} ms of computing "
            f"for each frame, on {os.cpu_count()} cores, in Chromium "
            f"{chrome.capabilities['browserVersion']}"
        )
        # The picture shows a walk.
        canvas = chrome.find_element("id", "map")
        unit = canvas.size["width"] // 5
        drag = webdriver.ActionChains(chrome)
        drag.move_to_element_with_offset(canvas, -unit, -unit)
        drag.click_and_hold().move_by_offset(2 * unit, 2 * unit)
        drag.release().perform()
        wait_for(chrome, "latent.state.walk === null")
        time.sleep(0.5)
        if options.whole:
            height = chrome.execute_script(
                "return document.documentElement.scrollHeight"
            )
            metrics = {"width": options.width, "height": height}
            chrome.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                {**metrics, "deviceScaleFactor": 1, "mobile": False},
            )
            time.sleep(0.5)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        temporary = options.output.with_suffix(".new.png")
        chrome.save_screenshot(str(temporary))
        os.replace(temporary, options.output)
        print(options.output)


if __name__ == "__main__":
    main()
