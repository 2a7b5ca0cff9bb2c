"""What kernels must know of the TPU that a program is traced for."""

import jax

MIB = 2**20

# VMEM of one core in bytes, by device kind; v5p and tpu7x report 63.94 MiB usable.
VMEM = {
  'TPU v5 lite': 128 * MIB,
  'TPU v5': 63 * MIB,
  'TPU v5p': 63 * MIB,
  'TPU v6 lite': 128 * MIB,
  'TPU7x': 63 * MIB,
}
SMALLEST_VMEM = 63 * MIB  # of the generations above: what fits is right for all of them


def vmem() -> int:
  """VMEM in bytes of a core of the mesh's devices; without a mesh that names its devices, the smallest known.

  Asking the mesh, and not this host, keeps programs right that are compiled for another machine.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  if device is None:
    return SMALLEST_VMEM
  return VMEM.get(device.device_kind, SMALLEST_VMEM)


def refuse_partitioning() -> str | None:
  """Why a kernel cannot run under the present mesh: XLA does not partition kernels; None where it need not."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1 or mesh.are_all_axes_manual:
    return None
  return f'kernels are not partitioned over the {mesh.size} devices of the mesh; call it inside shard_map'
