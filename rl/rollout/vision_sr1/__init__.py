"""Vision-SR1 (arXiv 2508.19652): the policy describes an image, answers, and answers again from the description alone;
the second answer rewards the description."""

from rl.rollout.vision_sr1.generations import GENERATIONS, Generation
from rl.rollout.vision_sr1.plan import KINDS, VisionSr1
from rl.rollout.vision_sr1.prompts import FIRST, SECOND, description, instructed
from rl.rollout.vision_sr1.rewards import TwoPass, components, self_judged, shortcut_rate
from rl.rollout.vision_sr1.settings import Sr1

__all__ = [
  'FIRST',
  'GENERATIONS',
  'KINDS',
  'SECOND',
  'Generation',
  'Sr1',
  'TwoPass',
  'VisionSr1',
  'components',
  'description',
  'instructed',
  'self_judged',
  'shortcut_rate',
]
