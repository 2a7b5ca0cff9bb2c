"""Who may call a server: bearer token, Host and Origin, content type. ASGI middleware without dependencies.

A page in a browser can make any machine that shows it call servers on its loopback interface. It cannot send our token,
forge the Host of another name, hide its Origin, or send JSON without asking first; each is checked by itself.
"""

import hmac
import secrets
import urllib.parse
from collections.abc import Iterable

from core.serving.http import asgi

LOOPBACK = frozenset({'localhost', '127.0.0.1', '::1'})


def new_token() -> str:
  """A fresh token of 256 random bits."""
  return secrets.token_urlsafe(32)


class BearerToken:
  """401 unless the request has `Authorization: Bearer TOKEN`, compared in constant time. `open_paths` need none."""

  def __init__(self, app: asgi.App, token: str, *, open_paths: Iterable[str] = ()):
    self.app = app
    self.open_paths = frozenset(open_paths)
    self.wanted = f'Bearer {token}'.encode()

  async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
    if scope['type'] == 'http' and scope['path'] not in self.open_paths:
      given = asgi.headers(scope).get(b'authorization', b'')
      if not hmac.compare_digest(given, self.wanted):
        return await asgi.refuse(send, 401, 'a bearer token is needed', {'www-authenticate': 'Bearer'})
    return await self.app(scope, receive, send)


def host_name(value: str) -> str | None:
  """The name in a Host header, without port, in lower case; None when it is malformed."""
  try:
    parts = urllib.parse.urlsplit(f'//{value}')
    plain = parts.netloc == value and '@' not in value and parts.port != 0
  except ValueError:
    return None
  if plain:
    return (parts.hostname or '').rstrip('.') or None
  return None


class KnownHost:
  """421 unless the Host is one of `hosts`; 403 for a request that a page of another origin made.

  A page of the same origin (scheme aside) may call; so may programs, which send neither Origin nor Sec-Fetch-Site.
  """

  def __init__(self, app: asgi.App, hosts: Iterable[str]):
    self.app = app
    self.hosts = frozenset(host.lower() for host in hosts)

  async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
    if scope['type'] == 'http' and (refusal := self.refusal(scope)):
      return await asgi.refuse(send, *refusal)
    return await self.app(scope, receive, send)

  def refusal(self, scope: asgi.Scope) -> tuple[int, str] | None:
    """(status, reason), or None for a request that may pass."""
    given = asgi.headers(scope)
    host = given.get(b'host', b'').decode('latin-1')
    if asgi.count(scope, b'host') != 1 or host_name(host) not in self.hosts:
      return 421, 'this server does not serve that Host'
    origin = given.get(b'origin')
    if origin is not None and _host_of(origin) != host.lower():
      return 403, 'requests of pages of other origins are not served'
    if given.get(b'sec-fetch-site', b'none') in (b'cross-site', b'same-site'):
      return 403, 'requests of pages of other sites are not served'
    return None


def _host_of(origin: bytes) -> str:
  """The host and port that an Origin header names, in lower case."""
  url = origin.decode('latin-1')
  return urllib.parse.urlsplit(url).netloc.lower()


class ContentType:
  """415 for a request with a body (POST, PUT, PATCH) whose type is none of `types`."""

  def __init__(self, app: asgi.App, types: Iterable[str]):
    self.app = app
    self.types = frozenset(types)

  async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
    has_body = scope['type'] == 'http' and scope['method'] in ('POST', 'PUT', 'PATCH')
    if has_body and _content_type(scope) not in self.types:
      expected = ' or '.join(sorted(self.types))
      return await asgi.refuse(send, 415, f'expected Content-Type {expected}')
    return await self.app(scope, receive, send)


def _content_type(scope: asgi.Scope) -> str:
  """The content type of a request in lower case, without its parameters."""
  given = asgi.headers(scope).get(b'content-type', b'')
  kind, _, _ = given.decode('latin-1').partition(';')
  return kind.strip().lower()
