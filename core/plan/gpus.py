"""NVIDIA GPUs: public data-sheet figures, what XLA's compiler asks of a device, and devices to compile for without one.

JAX's CUDA plugin alone compiles: no driver and no library of NVIDIA is needed.
"""

import contextlib
import dataclasses
import importlib.util

GB = 1e9
KIB = 2**10
MIB = 2**20

# cuDNN of the planned machine, as jax and XLA write 9.10.0.
CUDNN = 91000
CUDNN_PROTO = 'major: 9 minor: 10'

# Products of matrices go to cuBLAS. Tiles of Triton are chosen by trying them on a device; without one XLA takes the
# first, which some products refuse.
OPTIONS = {'xla_gpu_enable_triton_gemm': False}


@dataclasses.dataclass(frozen=True)
class Multiprocessor:
  """What XLA asks of an architecture. capability: of CUDA. shared: bytes of shared memory. threads: at most.

  fpus: float32 units.
  """

  capability: tuple[int, int]
  shared: int
  threads: int
  fpus: int = 128


@dataclasses.dataclass(frozen=True)
class Gpu:
  """hbm: bytes. flops: dense bfloat16 a second. bandwidth: bytes a second. nvlink: bytes a second sent, None without.

  cores: its multiprocessors. clock: their boost clock in GHz. l2: bytes.
  """

  name: str
  core: Multiprocessor
  cores: int
  clock: float
  l2: int
  hbm: float
  bandwidth: float
  flops: float
  nvlink: float | None = None


# CUDA's programming guide, "Technical Specifications per Compute Capability".
AMPERE = Multiprocessor(capability=(8, 0), shared=164 * KIB, threads=2048, fpus=64)
ADA = Multiprocessor(capability=(8, 9), shared=100 * KIB, threads=1536)
HOPPER = Multiprocessor(capability=(9, 0), shared=228 * KIB, threads=2048)
BLACKWELL = Multiprocessor(capability=(10, 0), shared=228 * KIB, threads=2048)

_H100 = Gpu(
  'H100', HOPPER, cores=132, clock=1.98, l2=50 * MIB, hbm=80 * GB, bandwidth=3350 * GB, flops=989.4e12, nvlink=450 * GB
)
# Data sheets of NVIDIA, the SXM form where there are several; NVLink is half of the bidirectional figure printed there.
# Boost clocks and caches are those of xla/backends/gpu/target_config/specs in OpenXLA, where it has the GPU.
GPUS = {
  'l4': Gpu('L4', ADA, cores=58, clock=2.04, l2=48 * MIB, hbm=24 * GB, bandwidth=300 * GB, flops=121e12),
  'rtx4090': Gpu('RTX 4090', ADA, cores=128, clock=2.52, l2=72 * MIB, hbm=24 * GB, bandwidth=1008 * GB, flops=165.2e12),
  'a100': Gpu(
    'A100', AMPERE, cores=108, clock=1.41, l2=40 * MIB, hbm=80 * GB, bandwidth=2039 * GB, flops=312e12, nvlink=300 * GB
  ),
  'h100': _H100,
  'h200': dataclasses.replace(_H100, name='H200', hbm=141 * GB, bandwidth=4800 * GB),
  'b200': Gpu(
    'B200',
    BLACKWELL,
    cores=148,
    clock=1.965,
    l2=126 * MIB,
    hbm=180 * GB,
    bandwidth=7700 * GB,
    flops=2250e12,
    nvlink=900 * GB,
  ),
}
HOST = 8  # GPUs that NVLink connects, at most


def target(gpu: Gpu) -> str:
  """The device as XLA's compiler reads it: a GpuTargetConfigProto as text."""
  core = gpu.core
  major, minor = core.capability
  # From Hopper on, instructions such as wgmma are of one generation alone (sm_90a).
  extension = 'ACCELERATED_FEATURES' if major >= 9 else 'NONE'
  return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: {48 * KIB}
  shared_memory_per_core: {core.shared}
  shared_memory_per_block_optin: {core.shared - KIB}
  threads_per_core_limit: {core.threads}
  core_count: {gpu.cores}
  fpus_per_core: {core.fpus}
  block_dim_limit_x: {2**31 - 1}
  block_dim_limit_y: {2**16 - 1}
  block_dim_limit_z: {2**16 - 1}
  memory_bandwidth: {gpu.bandwidth:.0f}
  l2_cache_size: {gpu.l2}
  clock_rate_ghz: {gpu.clock}
  device_memory_size: {gpu.hbm:.0f}
  registers_per_core_limit: {2**16}
  registers_per_block_limit: {2**16}
  cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {extension} }}
}}
platform_name: "CUDA"
dnn_version_info {{ {CUDNN_PROTO} }}
device_description_str: "NVIDIA {gpu.name}"
"""


def is_installed() -> bool:
  """Whether there is a CUDA plugin of JAX, which is the compiler."""
  return any(importlib.util.find_spec(f'jax_cuda{version}_plugin') for version in (12, 13))


def devices(gpu: Gpu, count: int) -> list:
  """`count` devices of one host, to compile for. Raises what jax raises if the plugin refuses the target."""
  from jax.experimental import topologies

  partitions = hosts = 1
  shape = f'{partitions}x{hosts}x{count}'
  description = topologies.get_topology_desc(
    platform='cuda', target_config=target(gpu), topology=shape, topology_name=''
  )
  return list(description.devices)


@contextlib.contextmanager
def traced():
  """Tells jax which cuDNN the planned machine has: tracing asks the library, which need not be installed here."""
  from core.attention import cudnn

  versions = cudnn.library()
  installed = versions.cudnn_get_version
  versions.cudnn_get_version = lambda: CUDNN
  try:
    yield
  finally:
    versions.cudnn_get_version = installed
