"""Pages of the web, fetched by an agent that may be told any address: bounded, and never from inside the network.

The address that is checked is the address that is connected to, so a name cannot resolve twice to different hosts.
"""

import dataclasses
import ipaddress
import socket
import time
from collections.abc import Callable
from urllib.parse import urljoin, urlsplit, urlunsplit

MAX_BYTES = 10 << 20
MAX_REDIRECTS = 5
AGENT = 'espalier-agent/1.0'


class FetchError(ValueError):
  """A page that cannot or may not be fetched; the message says why."""


@dataclasses.dataclass(frozen=True)
class Page:
  """A fetched page: its last address, its media type in lower case, its bytes and their stated encoding."""

  url: str
  kind: str
  body: bytes
  encoding: str


def resolve(host: str, port: int) -> list[str]:
  """The IP addresses of a host name."""
  try:
    entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [address[0] for *_, address in entries]
    return list(dict.fromkeys(addresses))
  except (OSError, UnicodeError) as error:
    raise FetchError(f'{host}: cannot be resolved ({error})') from None


def public(address: str) -> bool:
  """Whether an IP address is one of the public internet."""
  ip = ipaddress.ip_address(address.partition('%')[0])
  mapped = getattr(ip, 'ipv4_mapped', None) or getattr(ip, 'sixtofour', None)
  return ip.is_global and not ip.is_multicast and (mapped is None or mapped.is_global)


def fetch(
  url: str,
  *,
  private: bool = False,
  timeout: float = 30.0,
  max_bytes: int = MAX_BYTES,
  names: Callable[[str, int], list[str]] = resolve,
  transport=None,
) -> Page:
  """GETs a page, following redirects, within `timeout` seconds in all.

  private: allow hosts that are not public. transport: of httpx, for tests. Raises FetchError.
  """
  import httpx

  deadline = time.monotonic() + timeout
  with httpx.Client(transport=transport, trust_env=False, headers={'User-Agent': AGENT}) as client:
    for _ in range(MAX_REDIRECTS + 1):
      target, extra = _checked(url, private, names)
      left = deadline - time.monotonic()
      if left <= 0:
        break
      try:
        request = client.build_request(
          'GET', target, headers={'Host': extra['host']}, timeout=left, extensions={'sni_hostname': extra['name']}
        )
        response = client.send(request, stream=True)
        try:
          if response.is_redirect:
            url = urljoin(url, response.headers['location'])
            continue
          if response.status_code != 200:
            raise FetchError(f'{url}: status {response.status_code}')
          kind, _, _ = response.headers.get('content-type', '').partition(';')
          body = _body(response, url, max_bytes, deadline)
          return Page(url, kind.strip().lower(), body, response.charset_encoding or '')
        finally:
          response.close()
      except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise FetchError(f'{url}: {type(error).__name__}: {error}') from None
    else:
      raise FetchError(f'{url}: more than {MAX_REDIRECTS} redirects')
  raise FetchError(f'{url}: no whole page within {timeout:g} s')


def _checked(url: str, private: bool, names) -> tuple[str, dict]:
  """The address with its host replaced by a checked IP address, and the host it names."""
  try:
    parts = urlsplit(url.strip())
    port = parts.port
    host = parts.hostname or ''
  except ValueError as error:
    raise FetchError(f'{url[:200]!r}: not an address ({error})') from None
  if parts.scheme not in ('http', 'https') or not host:
    raise FetchError(f'{url[:200]!r}: expected an address that starts with http:// or https://')
  addresses = names(host, port or (443 if parts.scheme == 'https' else 80))
  if not private and not all(map(public, addresses)):
    raise FetchError(f'{host}: not a public host')
  address = addresses[0] if ':' not in addresses[0] else f'[{addresses[0]}]'
  suffix = f':{port}' if port else ''
  target = urlunsplit((parts.scheme, address + suffix, parts.path or '/', parts.query, ''))
  return target, {'host': (f'[{host}]' if ':' in host else host) + suffix, 'name': host}


def _body(response, url: str, max_bytes: int, deadline: float) -> bytes:
  parts = []
  size = 0
  for part in response.iter_bytes():
    size += len(part)
    if size > max_bytes:
      raise FetchError(f'{url}: more than {max_bytes} bytes')
    if time.monotonic() > deadline:
      raise FetchError(f'{url}: the page came too slowly')
    parts.append(part)
  return b''.join(parts)
