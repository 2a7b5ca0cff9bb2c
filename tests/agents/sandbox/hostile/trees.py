"""Code that leaves folders which are hard to remove; run as a program with a backend, it reports on all as JSON."""

import json
import os
import sys
import tempfile

from agents.sandbox import Limits, Pool

LIMITS = Limits(wall=4.0, disk=8 * 2**20, inodes=2500)
# Name: (code, words of the reason where the watch must end it).
TREES = {
  'nested 1,100 deep': (
    """
import os
for _ in range(1100):
  os.mkdir('d')
  os.chdir('d')
open('f', 'w').write('x')
""",
    '',
  ),
  'names as long as can be': (
    """
import os
for _ in range(40):
  os.mkdir('d' * 255)
  os.chdir('d' * 255)
  open('f' * 255, 'w').write('x')
""",
    '',
  ),
  'names that are no text': (
    """
import os
for name in (b'\\xff\\xfe', b'a\\nb', b' ', b'-rf', b'\\x1b[31m'):
  os.makedirs(os.path.join(name, name))
""",
    '',
  ),
  'folders without permissions': (
    """
import os
os.umask(0o777)
here = os.open('.', os.O_RDONLY)
for i in range(20): os.mkdir(f'd{i}')
""",
    '',
  ),
  'an unreadable folder that grows': (
    """
import os, time
os.umask(0o477)
os.mkdir('d')
for i in range(9999):
  with open(f'd/{i}', 'wb') as f: f.write(b'x' * 2**16)
time.sleep(9)
""",
    'working folder',
  ),
  'links to the host': (
    """
import os
os.mkdir('d')
for name in ('a', 'd/b'):
  os.symlink('/', name)
  os.symlink(os.environ.get('TMPDIR', '/tmp') + '/..', name + '2')
""",
    '',
  ),
}


def main(backend: str) -> None:
  """Prints {name: [status, reason, left]}, and what is on the host afterwards."""
  told = {}
  with Pool(1, LIMITS, profile='python', backend=backend) as pool:
    slot = None
    for name, (code, _) in TREES.items():
      result = pool.run(code)
      told[name] = [result.status, result.reason, result.left]
      used = pool._idle.queue[0]
      told[name].append(slot in (None, used))  # the slot continues: it was not killed and replaced
      slot = used
    assert pool.run('6 * 7').stdout == '42\n'
    with pool.session() as session:
      session.run(TREES['nested 1,100 deep'][0])
  print(json.dumps({'told': told, 'host': os.listdir(tempfile.gettempdir())}))


if __name__ == '__main__':
  main(sys.argv[1])
