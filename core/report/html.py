"""HTML pages: one style, everything that is filled in escaped, nothing fetched from elsewhere."""

_PAGE = """\
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
  :root { color-scheme: light dark; --line: #8884; --soft: #8881; }
  body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
  h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
  h3 { font-size: 1rem; margin-bottom: 0; }
  table { border-collapse: collapse; margin: .5rem 0 1rem; }
  th, td { border-bottom: 1px solid var(--line); padding: .25rem .7rem; text-align: left;
           vertical-align: top; }
  td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--soft); padding: .6rem;
        max-height: 24rem; overflow: auto; }
  img { max-width: 100%; } details { margin: .3rem 0; } summary { cursor: pointer; overflow-wrap: anywhere; }
  .images { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; width: 256px; }
  figcaption { font-size: .85rem; } ul { padding-left: 1.1rem; margin: .2rem 0; }
  .prompt { border-top: 1px solid var(--line); padding: .5rem 0 1rem; }
  .yes b { color: #2a9d4a; } .no b { color: #d33; } .none b { color: #888; }
</style></head><body><h1>{{ title }}</h1>
"""


def page(title: str, body: str, **values) -> str:
  """A whole page from a Jinja body; every value is escaped."""
  import jinja2

  template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
    _PAGE + body + '\n</body></html>\n'
  )
  return template.render(title=title, **values)
