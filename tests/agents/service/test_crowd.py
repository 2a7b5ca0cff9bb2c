"""A thousand half-open, slow and misdirected clients: good calls are answered, and nothing of the crowd remains."""

import subprocess
import sys

import pytest

from bench.perf import crowd, tools
from bench.perf.tools import Options, measure


@pytest.mark.slow
def test_good_callers_are_answered_and_the_server_keeps_nothing_of_a_crowd(tmp_path):
  report = measure(Options(clients=1000, seconds=6.0), str(tmp_path / 'errors'))
  alone, again = report.phases['alone'], report.phases['alone again']
  assert all(phase.failed == 0 and len(phase.latencies) > 10 for phase in report.phases.values())
  assert again.descriptors <= alone.descriptors + 4
  assert again.memory < alone.memory + 64 * 2**20
  assert set(report.crowd['wrong host']) == {'421'}
  assert set(report.crowd['cross site']) <= {'403', '415'}
  assert {kind for kind, counts in report.crowd.items() if not counts} <= {'half open', 'slow head', 'slow body'}
  assert report.errors == '', 'a disconnection is no reason to write'


def test_the_printed_address_is_what_clients_take(tmp_path):
  flags = [f'--uds={tmp_path / "socket"}', '--workers=1', '--profile=python']
  with subprocess.Popen(
    [sys.executable, '-m', 'agents.serve_tools', *flags], stdout=subprocess.PIPE, text=True
  ) as process:
    assert process.stdout.readline() == f'listening on unix:{tmp_path / "socket"}\n'
    process.terminate()
  assert sum(share for _, share in crowd.KINDS.values()) == 20
  assert tools.Options().clients == 1000
