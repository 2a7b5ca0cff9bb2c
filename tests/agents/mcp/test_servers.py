"""Our MCP servers, asked by the SDK's own client over stdio and in memory."""

import asyncio
import io
import json
import sys
import types

import httpx
import pytest
from mcp import Client, StdioServerParameters
from PIL import Image

from agents.mcp import documents, web
from agents.mcp.servers import crawl, search
from agents.mcp.servers import documents as documents_server
from agents.mcp.servers import python as python_server


def ask(server, tool, **arguments):
  """(text or part, failed) of one call by the SDK's client."""

  async def go():
    async with Client(server) as client:
      got = await client.call_tool(tool, arguments)
      return [p.text if p.type == 'text' else p for p in got.content], got.is_error

  return asyncio.run(go())


def make_docx(path):
  import docx

  doc = docx.Document()
  doc.add_heading('Report', 1)
  doc.add_paragraph('Warm words.')
  table = doc.add_table(2, 2)
  for i, cell in enumerate(c for row in table.rows for c in row.cells):
    cell.text = f'c{i}'
  doc.save(path)


def make_pptx(path):
  import pptx

  deck = pptx.Presentation()
  slide = deck.slides.add_slide(deck.slide_layouts[1])
  slide.shapes.title.text, slide.placeholders[1].text = 'Title', 'Bullet'
  slide.notes_slide.notes_text_frame.text = 'say this'
  deck.save(path)


def make_xlsx(path):
  import openpyxl

  book = openpyxl.Workbook()
  book.active.append(['name', 'n'])
  book.active.append(['a|b', 5])
  book.save(path)


def make_pdf(path):
  import pypdf
  from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

  writer = pypdf.PdfWriter()
  page = writer.add_blank_page(200, 200)
  font = DictionaryObject(
    {
      NameObject('/Type'): NameObject('/Font'),
      NameObject('/Subtype'): NameObject('/Type1'),
      NameObject('/BaseFont'): NameObject('/Helvetica'),
    }
  )
  page[NameObject('/Resources')] = DictionaryObject({NameObject('/Font'): DictionaryObject({NameObject('/F1'): font})})
  stream = DecodedStreamObject()
  stream.set_data(b'BT /F1 12 Tf 20 100 Td (Page of words) Tj ET')
  page[NameObject('/Contents')] = writer._add_object(stream)
  writer.write(path)


MAKERS = {
  'a.docx': make_docx,
  'a.pptx': make_pptx,
  'a.xlsx': make_xlsx,
  'a.pdf': make_pdf,
  'a.png': lambda path: Image.new('RGB', (30, 20), 'red').save(path),
  'a.csv': lambda path: path.write_text('x,y\n"1,5",2\n'),
  'a.html': lambda path: path.write_text('<title>T</title><script>evil()</script><h2>H</h2><p>a <b>b</b></p>'),
  'long.txt': lambda path: path.write_text('0123456789' * 10_000),
}
WANTED = {
  'a.docx': '# Report\n\nWarm words.\n\n| c0 | c1 |\n| --- | --- |\n| c2 | c3 |',
  'a.pptx': '## Slide 1\nTitle\nBullet\nNotes: say this',
  'a.pdf': '## Page 1\nPage of words',
  'a.xlsx': '## Sheet Sheet\n| name | n |\n| --- | --- |\n| a\\|b | 5 |',
  'a.png': '[image: PNG, 30 x 20 pixels, RGB]',
  'a.csv': '| x | y |\n| --- | --- |\n| 1,5 | 2 |',
  'a.html': '# T\n\n## H\n\na **b**',
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  root = tmp_path_factory.mktemp('documents')
  for name, make in MAKERS.items():
    make(root / name)
  return root


def test_every_kind_of_document_is_read_by_an_independent_client_over_stdio(folder):
  async def go():
    args = ['-m', 'agents.mcp.servers.documents', f'--root={folder}']
    command = StdioServerParameters(command=sys.executable, args=args)
    async with Client(command) as client:
      tools = await client.list_tools()
      texts = {}
      for name in WANTED:
        texts[name] = (await client.call_tool('read_document', {'path': name})).content[0].text
      return [t.name for t in tools.tools], texts, (await client.call_tool('list_documents', {})).content[0].text

  names, texts, listing = asyncio.run(go())
  assert names == ['list_documents', 'read_document', 'view_image']
  assert texts == WANTED
  assert listing.splitlines()[0].startswith('a.csv (') and len(listing.splitlines()) == len(MAKERS)


def test_long_documents_come_in_pieces_and_images_as_images(folder):
  server = documents_server.build(folder)
  (text,), failed = ask(server, 'read_document', path='long.txt')
  assert not failed and text.endswith('\n[characters 0 to 30000 of 100000; go on with start=30000]')
  assert ask(server, 'read_document', path='long.txt', start=99_995)[0] == [
    '56789\n[characters 99995 to 100000 of 100000]'
  ]
  (picture,), _ = ask(server, 'view_image', path='a.png')
  assert (picture.type, picture.mime_type) == ('image', 'image/png')
  assert ask(server, 'view_image', path='a.csv')[1]


@pytest.mark.parametrize(
  'path', ['../secret.txt', '/etc/passwd', 'link', 'no such file', '.', 'a\0b', 'x' * 5000, 'up/../../secret.txt']
)
def test_nothing_outside_the_folder_is_read(path, folder, tmp_path):
  inner = tmp_path / 'root'
  inner.mkdir()
  (tmp_path / 'secret.txt').write_text('secret')
  (inner / 'link').symlink_to(tmp_path / 'secret.txt')
  text, failed = ask(documents_server.build(inner), 'read_document', path=path)
  assert failed and 'secret' not in text[0].replace('secret.txt', '')


def bomb():
  import zipfile

  out = io.BytesIO()
  with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('[Content_Types].xml', b' ' * (documents.MAX_UNPACKED + 1))
  return out.getvalue()


@pytest.mark.parametrize('suffix', ['.pdf', '.docx', '.pptx', '.xlsx', '.zip', '.png', '.jpg'])
@pytest.mark.parametrize('data', [b'', b'\x00' * 1000, b'%PDF-1.7 cut', b'PK\x03\x04 cut', b'\x89PNG\r\n\x1a\n cut'])
def test_damaged_files_are_refused_by_name(suffix, data):
  with pytest.raises(documents.DocumentError, match=suffix):
    documents.read(data, suffix)


@pytest.mark.slow
def test_bombs_are_refused_before_they_unpack():
  data = bomb()
  for suffix in ('.docx', '.pptx', '.xlsx', '.zip'):
    with pytest.raises(documents.DocumentError, match='unpacks to'):
      documents.read(data, suffix)
  out = io.BytesIO()
  Image.new('1', (20_000, 20_000)).save(out, 'PNG')
  with pytest.raises(documents.DocumentError, match=r'pixels|DecompressionBomb'):
    documents.read(out.getvalue(), '.png')
  with pytest.raises(documents.DocumentError, match=r'\.exe'):
    documents.read(b'', '.exe')


class StandIn:
  """A pool that runs nothing, to test the server around it."""

  def __init__(self, **result):
    self.calls, self.result = [], {'status': 'ok', 'stdout': '', 'stderr': '', 'seconds': 0.5, **result}

  def run(self, code, stdin=''):
    self.calls.append((code, stdin))
    return types.SimpleNamespace(**self.result)


def test_python_goes_to_the_pool_and_comes_back_as_text():
  pool = StandIn(stdout='4\n')
  assert ask(python_server.build(pool), 'run_python', code='print(2 + 2)', stdin='x') == (['4'], False)
  assert pool.calls == [('print(2 + 2)', 'x')]
  pool = StandIn(status='timeout', stderr='Traceback')
  text, _ = ask(python_server.build(pool), 'run_python', code='…')
  assert text == ['stderr:\nTraceback\nstatus: timeout after 0.5 s']
  assert ask(python_server.build(StandIn()), 'run_python', code='')[0] == ['(no output)']
  pool = StandIn()
  assert 'refused' in ask(python_server.build(pool), 'run_python', code='x' * 200_001)[0][0] and not pool.calls


def test_a_corpus_is_searched(tmp_path):
  rows = [
    {'title': 'Foxes', 'text': 'The red fox is small.', 'url': 'u1'},
    {'title': 'Whales', 'text': 'Blue whales sing.'},
  ]
  path = tmp_path / 'c.jsonl'
  path.write_text('\n'.join(map(json.dumps, rows)))
  server = search.build(search.Corpus(path))
  assert ask(server, 'search', query='red foxes') == (['1. Foxes\nu1\nThe red fox is small.'], False)
  assert ask(server, 'search', query='quantum') == (['Nothing was found.'], False)
  path.write_text('{"title": 1}')
  with pytest.raises(ValueError, match=r'c\.jsonl:1'):
    search.Corpus(path)


@pytest.mark.parametrize('reply', [(500, 'x'), (200, 'no json'), (200, '{"results": 5}'), (200, '[]')])
def test_a_search_engine_that_fails_is_a_failure_that_says_so(reply):
  transport = httpx.MockTransport(lambda request: httpx.Response(reply[0], text=reply[1]))
  text, failed = ask(search.build(search.Searx('http://searx', transport=transport)), 'search', query='a')
  assert failed and 'no usable answer' in text[0]


def test_searx_results_are_read_and_cut():
  found = {'results': [{'title': 'T', 'url': 'u', 'content': 'c' * 900}, {'title': None}, {}]}
  transport = httpx.MockTransport(lambda request: httpx.Response(200, json=found))
  hits = search.Searx('http://searx', transport=transport)('a', 2)
  assert hits == [search.Hit('T', 'u', 'c' * 500), search.Hit('', '', '')]


HOSTS = {
  'good.example': ['93.184.216.34'],
  'inside.example': ['10.0.0.5'],
  'both.example': ['93.184.216.34', '127.0.0.1'],
}


def fetch(handler, url='http://good.example/a', **options):
  options = {'names': lambda host, port: HOSTS.get(host, [host]), **options}
  return web.fetch(url, transport=httpx.MockTransport(handler), **options)


def test_a_page_is_fetched_from_the_address_that_was_checked():
  seen = []

  def handler(request):
    seen.append((str(request.url), request.headers['host'], request.extensions['sni_hostname']))
    if request.url.path == '/a':
      return httpx.Response(302, headers={'location': '/b?q=1#part'})
    return httpx.Response(200, html='<p>hello')

  page = fetch(handler)
  assert (page.url, page.kind, page.body) == ('http://good.example/b?q=1#part', 'text/html', b'<p>hello')
  assert seen == [
    ('http://93.184.216.34/a', 'good.example', 'good.example'),
    ('http://93.184.216.34/b?q=1', 'good.example', 'good.example'),
  ]


@pytest.mark.parametrize(
  ('url', 'message'),
  [
    ('http://127.0.0.1/', 'not a public host'),
    ('http://[::1]/', 'not a public host'),
    ('http://169.254.169.254/latest', 'not a public host'),
    ('http://inside.example/', 'not a public host'),
    ('http://both.example/', 'not a public host'),
    ('http://[::ffff:10.0.0.1]/', 'not a public host'),
    ('file:///etc/passwd', 'expected an address'),
    ('ftp://good.example/', 'expected an address'),
    ('http://', 'expected an address'),
    ('http://a:b/', 'not an address'),
    ('nonsense', 'expected an address'),
  ],
)
def test_hosts_inside_the_network_and_other_schemes_are_refused(url, message):
  asked = []
  handler = lambda request: asked.append(request) or httpx.Response(200)
  with pytest.raises(web.FetchError, match=message):
    fetch(handler, url)
  redirect = lambda request: httpx.Response(302, headers={'location': url}) if not asked.append(1) else None
  if '://' in url and url != 'http://':  # which as a redirect means the page itself
    with pytest.raises(web.FetchError):
      fetch(redirect)
    assert len(asked) == 1  # and where a redirect leads is not asked either


def test_large_and_endless_pages_are_cut_off():
  with pytest.raises(web.FetchError, match='more than 1000 bytes'):
    fetch(lambda r: httpx.Response(200, content=b'x' * 2000), max_bytes=1000)
  with pytest.raises(web.FetchError, match='redirects'):
    fetch(lambda r: httpx.Response(302, headers={'location': '/a'}))
  with pytest.raises(web.FetchError, match='status 404'):
    fetch(lambda r: httpx.Response(404))


@pytest.mark.slow
def test_pages_are_read_as_markdown_and_failures_say_why():
  def get(url, private):
    if url == 'bad':
      raise web.FetchError('bad: status 404')
    return web.Page(url, 'text/html', b'<title>T</title><p>' + b'word ' * 10_000, '')

  text, failed = ask(crawl.build(get=get), 'crawl_page', url='good')
  assert not failed and text[0].startswith('# T\n\nword word') and 'go on with start=30000' in text[0]
  text, failed = ask(crawl.build(get=get), 'crawl_page', url='bad')
  assert failed and text[0].endswith('bad: status 404')
  deep = b'<div>' * 50_000
  text, failed = ask(crawl.build(get=lambda url, private: web.Page(url, 'text/html', deep, '')), 'crawl_page', url='x')
  assert isinstance(text[0], str)
  odd = web.Page('u', 'video/mp4', b'', '')
  text, failed = ask(crawl.build(get=lambda url, private: odd), 'crawl_page', url='x')
  assert failed and text[0].endswith('u: video/mp4 is not read')
