"""The page in a real browser, Debian's Chromium without a screen: type, click, see."""

import json
import shutil
import time

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # gradio's own
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium with chromedriver here"),
]
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
)  # fmt: skip
PATIENCE = 120
"""Seconds: the machine may be busy."""


@pytest.fixture(scope="module")
def browser(served):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, "--window-size=1440,1000"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(PATIENCE)
    yield driver
    driver.quit()


def until(found, what):
    """What `found()` gives, once it gives something."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if value := found():
                return value
        except Exception:  # the page is being changed
            value = None
        time.sleep(0.2)
    pytest.fail(f"no {what} within {PATIENCE} s")


def one(browser, selector):
    return browser.find_element("css selector", selector)


def write(browser, selector, text):
    field = one(browser, selector)
    browser.execute_script("arguments[0].select()", field)
    field.send_keys(text)
    return field


def name_shown(browser):
    return one(browser, "#fx-summary h2 code").text


def begin_run(browser, served, steps):
    """Open the tab Unlearn by a link, and click."""
    browser.get(f"{served}/?tab=unlearn&target=sneaker&steps={steps}&divergence=kl")
    until(lambda: one(browser, "#fx-unlearn").is_displayed(), "open tab")
    until(
        lambda: one(browser, "#fx-steps input[type=number]").get_attribute("value") == str(steps),
        "steps of the link",
    )
    one(browser, "#fx-unlearn").click()


def requested(browser):
    """Addresses that the page has asked for."""
    messages = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    return {
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }


def test_explore(browser, served):
    browser.get(served)
    until(lambda: len(browser.find_elements("css selector", "#fx-charts svg")) == 9, "nine charts")
    assert name_shown(browser) == "squared_hellinger"
    until(lambda: browser.find_elements("css selector", "#fx-formulas .katex"), "rendered formulas")

    write(browser, "#fx-f input, #fx-f textarea", "(t-1)**2/(t+1)\n")
    until(lambda: name_shown(browser) == "(t-1)**2/(t+1)", "answer to what was typed")
    until(lambda: "?f=" in browser.current_url, "link in the address")

    write(browser, "#fx-f input, #fx-f textarea", "log(t)")
    one(browser, "#fx-go").click()
    told = until(lambda: one(browser, "#fx-message .fx-message").text, "message")
    assert "not convex" in told
    assert "Traceback" not in browser.page_source
    assert not browser.find_elements("css selector", "#fx-charts svg")

    chips = browser.find_elements("css selector", ".fx-chips button")
    next(chip for chip in chips if chip.text.startswith("KL")).click()
    until(lambda: len(browser.find_elements("css selector", "#fx-summary section")) == 2, "two side by side")
    link = until(lambda: "against=" in browser.current_url and browser.current_url, "link in the address")

    browser.get("about:blank")
    browser.get(link)
    until(
        lambda: len(browser.find_elements("css selector", "#fx-summary section")) == 2, "what the link says"
    )
    assert name_shown(browser) == "kl"
    assert one(browser, "#fx-against input, #fx-against textarea").get_attribute("value") == "pearson_chi2"


def test_unlearn(browser, served):
    begin_run(browser, served, steps=4)
    until(lambda: one(browser, ".fx-run[data-phase=done]"), "end of the run")
    assert "3 → 3 of 4" in one(browser, ".fx-counts").text
    assert len(browser.find_elements("css selector", ".fx-run img")) == 20
    assert browser.find_elements("css selector", ".fx-run svg")
    links = until(lambda: browser.find_elements("css selector", "#fx-files a[href]"), "downloads")
    addresses = [link.get_attribute("href") for link in links]
    assert any("kohya" in address for address in addresses)
    sizes = browser.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "Promise.all(arguments[0].map(a => fetch(a).then(r => r.ok ? r.blob() : null))).then("
        "blobs => done(blobs.map(b => b && b.size)))",
        addresses,
    )
    assert all(size and size > 100 for size in sizes), sizes


def test_stop(browser, served):
    begin_run(browser, served, steps=150)
    until(lambda: one(browser, ".fx-run"), "beginning of the run")
    one(browser, "#fx-stop").click()
    until(lambda: one(browser, ".fx-run[data-phase=stopped]"), "end of the run")


def test_nothing_was_asked_of_other_servers(browser, served):
    browser.get(served)
    until(lambda: browser.find_elements("css selector", "#fx-charts svg"), "charts")
    addresses = requested(browser)
    assert any(address.startswith(served) for address in addresses)
    outside = {a for a in addresses if not a.startswith((served, "data:", "blob:", "about:"))}
    assert not outside
