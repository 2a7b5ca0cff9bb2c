"""The Ray adapter on a local Ray."""

import asyncio
import pathlib
import shutil
import tempfile

import pytest

ray = pytest.importorskip('ray')

from agents.sandbox import Limits  # noqa: E402
from agents.service.ray_adapter import RayDispatcher  # noqa: E402

ROOT = str(pathlib.Path(__file__).resolve().parents[3])


@pytest.mark.slow
def test_calls_states_and_a_lost_actor_on_a_local_ray():
  folder = tempfile.mkdtemp(prefix='ray')  # a short path: Ray puts unix sockets below it
  ray.init(
    num_cpus=1,
    include_dashboard=False,
    object_store_memory=80 * 2**20,
    _temp_dir=folder,
    runtime_env={'env_vars': {'PYTHONPATH': ROOT}},
    logging_level='error',
  )

  async def main():
    tools = RayDispatcher(2, Limits(wall=3.0), profile='python')
    results = await asyncio.gather(*(tools.run(str(i), f'{i} * 2') for i in range(20)))
    assert [r.stdout for r in results] == [f'{2 * i}\n' for i in range(20)]
    assert (await tools.run('a', 'x = 1', keep=True)).ok
    assert (await tools.run('a', 'x', keep=True)).stdout == '1\n'
    with pytest.raises(ValueError, match='relative'):
      await tools.run('a', '1', files={'/x': ''})
    assert (await tools.figures())[0]['calls'] == 22
    ray.kill(tools._nodes[0], no_restart=False)
    statuses = [(await tools.run('a', '1')).status for _ in range(20)]
    assert set(statuses) <= {'ok', 'harness'}
    assert statuses[-1] == 'ok'
    await tools.close()

  try:
    asyncio.run(main())
  finally:
    ray.shutdown()
    shutil.rmtree(folder)
