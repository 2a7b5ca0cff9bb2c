"""Pages escape what they are given and fetch nothing; equal charts are equal files."""

import re

import jinja2
import pytest
from PIL import Image

from core import report

HOSTILE = '</td><script>alert(1)</script>{{ 7 * 7 }}"\'&'


def drawn() -> bytes:
  fig, (top, low) = report.stacked(3, 2, 2, ratios=(2, 1))
  report.curve(top, [0, 1, 2], [0.1, 0.5, 0.4], low=[0, 0.4, 0.3], high=[0.2, 0.6, 0.5], label='reward')
  report.level(low, 0.5, (0.4, 0.6), label='before', color='red')
  return report.png(fig)


def test_nothing_that_is_filled_in_becomes_markup_or_template():
  table = report.table([HOSTILE, 'n'], [[HOSTILE, 1.5]])
  picture = report.chart('a.png', HOSTILE)
  made = report.page(HOSTILE, '{{ text }}{{ table }}{{ picture }}', text=HOSTILE, table=table, picture=picture)
  assert '<script' not in made and '49' not in made
  assert made.count('&lt;script&gt;') == 6  # title twice, text, head, cell, alt
  assert '<td class="n">1.5</td>' in made and '<div class="scroll"><table>' in made


def test_a_page_fetches_nothing_and_fits_a_phone():
  made = report.page('t', '{{ picture }}', picture=report.chart(report.data_uri(drawn()), 'a curve'))
  assert 'name="viewport" content="width=device-width' in made
  assert all(source.startswith('data:') for source in re.findall(r'(?:src|href)="([^"]*)"', made))
  assert not re.search(r'url\(|@import|https?://', made)
  assert not re.search(r'min-width:\s*[4-9]\d\d', made)


def test_a_missing_value_is_an_error():
  with pytest.raises(jinja2.UndefinedError, match='absent'):
    report.page('t', '{{ absent }}')


def test_equal_charts_are_equal_files(tmp_path):
  assert drawn() == drawn()
  fig, axis = report.figure(2, 2, polar=True)
  axis.plot([0, 1], [1, 2])
  assert report.save(fig, tmp_path / 'x.png') == 'x.png'
  assert Image.open(tmp_path / 'x.png').format == 'PNG'
