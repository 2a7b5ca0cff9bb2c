"""The chat page in a real browser: a headless Chromium, where there is one."""

import contextlib
import shutil
from collections.abc import Iterator

NAMES = ('chromium-headless-shell', 'chromium', 'chromium-browser', 'google-chrome')
DESKTOP, PHONE = {'width': 1100, 'height': 800}, {'width': 375, 'height': 740}


def executable() -> str | None:
  """The path of a Chromium; None where there is none."""
  return next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def opened(address: str, viewport: dict[str, int] = DESKTOP) -> Iterator:
  """The page at an address, in a browser of its own; raises AssertionError at the end if it logged an error."""
  from playwright.sync_api import sync_playwright

  with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=executable(), args=['--no-sandbox'])
    page = browser.new_page(viewport=viewport)
    page.set_default_timeout(30_000)
    errors: list[str] = []
    page.on('pageerror', lambda error: errors.append(str(error)))
    page.on('console', lambda line: errors.append(line.text) if 'Content Security Policy' in line.text else None)
    page.goto(address)
    yield page
    browser.close()
    assert not errors, errors


def send(page, text: str, files: list = (), **choices: str) -> None:
  """Types a message, chooses images and options by their ids, and sends it."""
  if files:
    page.set_input_files('#files', files)
  page.evaluate("document.getElementById('options').open = true")
  for name, value in choices.items():
    page.select_option(f'#{name}', value)
  page.evaluate("document.getElementById('options').open = false")
  page.fill('#text', text)
  page.click('#send')
