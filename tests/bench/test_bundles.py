"""Stretches of a schedule as libtpu writes it."""

from bench.perf.bundles import Stretch, stretches

SCHEDULE = """
     0   :  { %s0 = sld [smem:$0x3] }
   0x1   :  { %v1 = vld.sshfl [vmem:$0x1] ; %v2_spill = vst }
   0x2 LB: > { %v3 = vadd %v1 }
   0x3   : > { %p4 = scmp.lt }
   0x4   : > { %5 = sbr.rel (!%p4) target bundleno = 2 (0x2) }
   0x5   :  { %6 = vst }
"""


def test_labels_and_branches_end_a_stretch():
  assert list(stretches(SCHEDULE)) == [Stretch(2, 1), Stretch(3, 0), Stretch(1, 0)]
