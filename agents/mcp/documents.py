"""Files as text: PDF, Word, PowerPoint, Excel, CSV, HTML, images, archives, plain text. Hostile files are refused.

Nothing in a file is executed, no link in it is followed, and what it unpacks to is bounded before it is unpacked.
"""

import csv
import functools
import io
import zipfile
from collections.abc import Callable, Iterable, Sequence

MAX_UNPACKED = 300 << 20  # bytes that an archive may hold in all
MAX_PIXELS = 100_000_000
MAX_PAGES = 2000
MAX_ROWS = 5000  # of a sheet
MAX_COLUMNS = 200
DROPPED = ('script', 'style', 'noscript', 'template', 'svg', 'iframe', 'nav', 'footer', 'form')

SUFFIX_OF = {
  'application/pdf': '.pdf',
  'application/vnd.openxmlformats-officedocument.wordprocessingml.document': '.docx',
  'application/vnd.openxmlformats-officedocument.presentationml.presentation': '.pptx',
  'application/vnd.openxmlformats-officedocument.spreadsheetml.sheet': '.xlsx',
  'application/zip': '.zip',
  'image/png': '.png',
  'image/jpeg': '.jpg',
  'image/webp': '.webp',
  'image/gif': '.gif',
}


class DocumentError(ValueError):
  """A file that cannot be read as what its name says; the message says why."""


def read(data: bytes, suffix: str) -> str:
  """The text of a file's bytes, by the suffix of its name (with its dot). Raises DocumentError."""
  suffix = suffix.lower()
  if suffix not in READERS:
    raise DocumentError(
      f'{suffix or "a file without suffix"}: not a kind of file that is read; those are {", ".join(sorted(READERS))}'
    )
  try:
    return READERS[suffix](data)
  except DocumentError:
    raise
  except Exception as error:  # parsers raise almost anything for a damaged file
    raise DocumentError(f'not a readable {suffix} file ({type(error).__name__}: {str(error)[:200]})') from error


def piece(text: str, start: int, most: int) -> str:
  """`most` characters of a long text from `start`, and how to read on."""
  start = max(0, start)
  end = min(len(text), start + most)
  if not start and end == len(text):
    return text
  rest = ''
  if end < len(text):
    rest = f'; go on with start={end}'
  return f'{text[start:end]}\n[characters {start} to {end} of {len(text)}{rest}]'


def _cell(value: object) -> str:
  """A value as a cell of a Markdown table."""
  if value is None:
    return ''
  escaped = str(value).replace('|', '\\|')
  return escaped.replace('\n', ' ').strip()


def table(rows: Iterable[Sequence]) -> str:
  """Rows as a Markdown table, the first as its head; cut where it is too long or too wide, and saying so."""
  lines = []
  width = 0
  for number, row in enumerate(rows):
    if number >= MAX_ROWS:
      lines.append(f'[only the first {MAX_ROWS} rows]')
      break
    cells = [_cell(value) for value in row]
    shown = cells[:MAX_COLUMNS] + (['…'] if len(cells) > MAX_COLUMNS else [])
    width = width or len(shown)
    lines.append('| ' + ' | '.join(shown) + ' |')
    if number == 0:
      lines.append('|' + ' --- |' * width)
  return '\n'.join(lines)


def markdown(html: bytes | str, encoding: str = '') -> str:
  """The readable part of an HTML page as Markdown: its title, then its text; navigation and scripts left out."""
  import bs4
  import markdownify

  source = {}
  if encoding and isinstance(html, bytes):
    source = {'from_encoding': encoding}
  soup = bs4.BeautifulSoup(html, 'html.parser', **source)
  title = ''
  if soup.title:
    title = soup.title.get_text(' ', strip=True)
  for tag in soup([*DROPPED, 'title']):
    tag.decompose()
  text = markdownify.MarkdownConverter(heading_style='atx', strip=['img']).convert_soup(soup)
  lines = [line.rstrip() for line in text.splitlines()]
  kept = [line for i, line in enumerate(lines) if line or (i and lines[i - 1])]
  return '\n'.join([*([f'# {title}', ''] if title else []), *kept]).strip()


def thumbnail(data: bytes, side: int = 1024) -> bytes:
  """An image as PNG, its longer side at most `side`. Raises DocumentError."""
  try:
    image = _open_image(data)
    image.thumbnail((side, side))
    out = io.BytesIO()
    image.convert('RGB').save(out, 'PNG')
    return out.getvalue()
  except (OSError, ValueError, SyntaxError) as error:
    raise DocumentError(f'not a readable image ({type(error).__name__}: {error})') from None


def _pdf(data: bytes) -> str:
  import pypdf

  reader = pypdf.PdfReader(io.BytesIO(data))
  if reader.is_encrypted and not reader.decrypt(''):
    raise DocumentError('the PDF is encrypted')
  pages = reader.pages[:MAX_PAGES]
  parts = [f'## Page {n}\n{page.extract_text().strip()}' for n, page in enumerate(pages, 1)]
  if len(reader.pages) > MAX_PAGES:
    parts.append(f'[only the first {MAX_PAGES} of {len(reader.pages)} pages]')
  return '\n\n'.join(parts)


def _archive(data: bytes) -> zipfile.ZipFile:
  """An archive that is not too large unpacked; what an entry states is all that zipfile will ever unpack of it."""
  archive = zipfile.ZipFile(io.BytesIO(data))
  size = sum(entry.file_size for entry in archive.infolist())
  if size > MAX_UNPACKED:
    raise DocumentError(f'the archive unpacks to {size} bytes, more than {MAX_UNPACKED}')
  return archive


def _docx(data: bytes) -> str:
  import docx
  from docx.table import Table

  _archive(data)
  parts = []
  for block in docx.Document(io.BytesIO(data)).iter_inner_content():
    if isinstance(block, Table):
      parts.append(table([[cell.text for cell in row.cells] for row in block.rows]))
    elif block.text.strip():
      style = ''
      if block.style is not None:
        style = block.style.name
      level = ''
      if style.startswith('Heading '):
        level = style.removeprefix('Heading ')
      parts.append(f'{"#" * int(level)} {block.text}' if level.isdigit() else block.text)
  return '\n\n'.join(parts)


def _pptx(data: bytes) -> str:
  import pptx

  _archive(data)
  parts = []
  for number, slide in enumerate(pptx.Presentation(io.BytesIO(data)).slides, 1):
    lines = [f'## Slide {number}', *_shapes(slide.shapes)]
    if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
      notes = slide.notes_slide.notes_text_frame.text.strip()
      lines += [f'Notes: {notes}'] if notes else []
    parts.append('\n'.join(lines))
  return '\n\n'.join(parts)


def _shapes(shapes) -> list[str]:
  lines = []
  for shape in shapes:
    if hasattr(shape, 'shapes'):  # a group
      lines += _shapes(shape.shapes)
    elif getattr(shape, 'has_table', False):
      lines.append(table([[cell.text for cell in row.cells] for row in shape.table.rows]))
    elif shape.has_text_frame and shape.text_frame.text.strip():
      lines.append(shape.text_frame.text.strip())
    elif hasattr(shape, 'image'):
      lines.append(f'[image: {shape.image.content_type}]')
  return lines


def _xlsx(data: bytes) -> str:
  import openpyxl

  _archive(data)
  book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True, keep_links=False)
  parts = []
  for sheet in book.worksheets:
    rows = sheet.iter_rows(max_row=MAX_ROWS + 1, max_col=MAX_COLUMNS + 1, values_only=True)
    parts.append(f'## Sheet {sheet.title}\n{table(map(_used, rows))}')
  return '\n\n'.join(parts)


def _used(row: Sequence) -> Sequence:
  """A row without the empty cells at its end."""
  return row[: max((i for i, cell in enumerate(row, 1) if cell is not None), default=0)]


def _csv(data: bytes, delimiter: str) -> str:
  return table(csv.reader(io.StringIO(_text(data), newline=''), delimiter=delimiter))


def _zip(data: bytes) -> str:
  entries = _archive(data).infolist()
  return '\n'.join(f'{entry.filename} ({entry.file_size} bytes)' for entry in entries)


def _open_image(data: bytes):
  from PIL import Image

  image = Image.open(io.BytesIO(data))
  if image.width * image.height > MAX_PIXELS:
    raise DocumentError(f'the image has {image.width} x {image.height} pixels, more than {MAX_PIXELS} in all')
  return image


def _image(data: bytes) -> str:
  image = _open_image(data)
  return f'[image: {image.format}, {image.width} x {image.height} pixels, {image.mode}]'


def _text(data: bytes) -> str:
  for mark, encoding in ((b'\xff\xfe', 'utf-16'), (b'\xfe\xff', 'utf-16')):
    if data.startswith(mark):
      return data.decode(encoding, 'replace')
  return data.decode('utf-8-sig', 'replace')


READERS: dict[str, Callable[[bytes], str]] = {
  '.pdf': _pdf,
  '.docx': _docx,
  '.pptx': _pptx,
  '.xlsx': _xlsx,
  '.zip': _zip,
  '.csv': functools.partial(_csv, delimiter=','),
  '.tsv': functools.partial(_csv, delimiter='\t'),
  '.html': markdown,
  '.htm': markdown,
  **dict.fromkeys(('.png', '.jpg', '.jpeg', '.webp', '.gif', '.bmp', '.tiff'), _image),
  **dict.fromkeys(('.txt', '.md', '.json', '.jsonl', '.xml', '.py', '.yaml', '.yml', '.tex', '.log'), _text),
}
IMAGES = frozenset(suffix for suffix, reader in READERS.items() if reader is _image)
