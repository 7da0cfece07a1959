"""A real Chromium for tests, without a window: `sudo apt install chromium chromium-driver`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--hide-scrollbars",
    "--window-size=1280,860",
)


class Browser:
    """One browser with one page open."""

    def __init__(self, driver: webdriver.Chrome, address: str) -> None:
        self.driver = driver
        self._address = address

    def open(self, path: str = "") -> None:
        """Open a path of the page, and wait until the page is live."""
        self.driver.get(self._address + path)
        self.until(lambda: self.text("#link") == "live")

    @property
    def query(self) -> str:
        """Query of the address, without the `?`."""
        return str(self.driver.current_url).partition("?")[2]

    def until(self, condition: Callable[[], Any], seconds: float = 20) -> Any:
        """Wait for `condition`; return its first true result."""
        deadline = time.monotonic() + seconds
        while not (result := condition()):
            assert time.monotonic() < deadline, f"{self.text('#link')}: {self.texts('#rows .text')}"
            time.sleep(0.05)
        return result

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def script(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(code, *arguments)

    def text(self, selector: str) -> str:
        return str(self.script("return document.querySelector(arguments[0]).textContent", selector))

    def texts(self, selector: str) -> list[str]:
        code = "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)"
        return list(self.script(code, selector))

    def press(self, *keys: str) -> None:
        """Type into the element that has the focus."""
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def type(self, selector: str, text: str) -> None:
        element = self.find(selector)
        element.clear()
        element.send_keys(text)

    def resize(self, width: int, height: int, is_phone: bool = False) -> None:
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_phone},
        )

    def prefer(self, scheme: str) -> None:
        """Set the preferred colour scheme to `light` or `dark`."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def violations(self) -> list[str]:
        """Return the violations of accessibility that axe-core finds."""
        self.script(files("axe_core_python").joinpath("axe.min.js").read_text())
        violations = self.driver.execute_async_script(
            "const done = arguments[0]; axe.run().then((r) => done(r.violations))"
        )
        return [
            f"{v['id']}: {v['help']}: {[n['html'][:120] for n in v['nodes']]}" for v in violations
        ]

    def log_entries(self) -> list[str]:
        """Return new entries of the browser's log: errors, and violations of the page's policy."""
        return [entry["message"] for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]


@contextmanager
def chromium(address: str) -> Iterator[Browser]:
    """Yield a browser for the page at `address`."""
    options = Options()
    options.binary_location = str(CHROMIUM)
    for option in _OPTIONS:
        options.add_argument(option)
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    driver.set_script_timeout(60)
    try:
        yield Browser(driver, address)
    finally:
        driver.quit()


__all__ = ["CHROMIUM", "DRIVER", "Browser", "Keys", "chromium"]
