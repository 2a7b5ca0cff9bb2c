"""The chat page in a headless Chromium: what a person sees after choosing images, typing and clicking."""

import pytest

pytest.importorskip('playwright')
from playwright.sync_api import expect

from tests.internvl import page_browser
from tests.internvl import page_pictures as pictures
from tests.internvl.page_browser import opened, send

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(page_browser.executable() is None, reason='no Chromium'),
]
SLOW = 'slow ' * 1500  # half a minute, so that a busy machine too can stop it


@pytest.fixture(scope='module')
def address():
  with pictures.serving(lambda prompt, _: SLOW if 'slowly' in prompt else pictures.REPLY, pause=0.02) as url:
    yield url


FILES = [pictures.upload(pictures.chart(), 'chart.png'), pictures.upload(pictures.note(), 'note.png')]
# The colour in the middle of each tile of the first picture, its thumbnail not counted.
MIDDLES = """() => {
  const canvas = document.querySelector('canvas'), pen = canvas.getContext('2d'), side = canvas.height / 2;
  return [0, 1, 2, 3, 4, 5].map((i) => [...pen.getImageData(
    (i % 3 + 0.06) * side, (Math.floor(i / 3) + 0.4) * side, 1, 1).data].slice(0, 3));
}"""


def test_a_question_about_images_shows_the_answer_and_what_the_router_did(address):
  with opened(f'{address}#secret') as page:
    assert page.input_value('#token') == 'secret' and '#' not in page.url
    requests = []
    page.on('request', lambda request: requests.append(request.url))
    send(page, pictures.QUESTION, FILES, compression='all')
    page.wait_for_selector('.legend')
    assert page.inner_text('.assistant') == pictures.REPLY
    assert '14 tiles, 56 of 224 image tokens, 75 % saved' in page.inner_text('.figures')
    tinted = page.evaluate(MIDDLES)
    assert page.locator('canvas').count() == 2 and page.input_value('#text') == ''
    assert all(url.startswith((address, 'data:')) for url in requests)
    page.click('#fresh')
    send(page, pictures.QUESTION, FILES, compression='off')
    page.wait_for_selector('canvas')
    assert page.locator('.legend').count() == 0 and '0 % saved' in page.inner_text('.figures')
    plain = page.evaluate(MIDDLES)
    assert all(blue < other for (_, _, blue), (_, _, other) in zip(tinted, plain))  # orange over each tile


def test_a_conversation_continues_and_enter_sends(address):
  with opened(f'{address}#secret') as page:
    send(page, 'First', FILES[:1])
    page.wait_for_selector('.figures')
    page.fill('#text', 'Second')
    with page.expect_request('**/chat/completions') as sent:
      page.press('#text', 'Enter')
    turns = sent.value.post_data_json['messages']
    assert [turn['role'] for turn in turns] == ['user', 'assistant', 'user'] and turns[1]['content'] == pictures.REPLY
    assert [part['type'] for part in turns[0]['content']] == ['image_url', 'text']
    expect(page.locator('.figures')).to_have_count(2)


def test_what_fails_or_is_stopped_can_be_sent_again(address):
  with opened(f'{address}#wrong') as page:
    send(page, 'Anyone?', FILES[:1])
    expect(page.locator('#error')).to_contain_text('401')
    expect(page.locator('#chosen img')).to_have_count(1)
    assert page.input_value('#text') == 'Anyone?' and page.locator('.user').count() == 0
    page.fill('#token', 'secret')
    send(page, 'Say it slowly', [])
    expect(page.locator('.assistant')).to_contain_text('slow slow')
    page.click('#stop')
    expect(page.locator('#send')).to_be_enabled()
    assert page.input_value('#text') == 'Say it slowly' and page.inner_text('#error') == ''
    page.click('#chosen button')
    expect(page.locator('#chosen img')).to_have_count(0)


@pytest.mark.parametrize('viewport', [page_browser.DESKTOP, page_browser.PHONE])
def test_nothing_is_wider_than_the_screen(address, viewport):
  with opened(f'{address}#secret', viewport) as page:
    send(page, 'x' * 300, FILES)
    page.wait_for_selector('canvas')
    assert page.evaluate('document.documentElement.scrollWidth') == viewport['width']
