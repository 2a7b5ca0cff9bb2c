"""Frames of speech: ours against transformers' torch-CPU VibeVoice on the same random float32 weights and noise.

  python -m bench.perf.vibevoice --width=512 --layers=8 --filters=8 --frames=24

One pinned thread, CPU seconds, the arms interleaved, minimum of the repeats after a warm-up; the first frames must be
equal. Both arms speak one script of random text without voices, with guidance and the same solver. The output
matrix is 0, so that both choose a slot of speech at every step: the least of the four ids wins a tie. transformers gets
a solver of few lines, which costs less than that of diffusers. Compile time is listed by itself.
"""

import dataclasses
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from bench.perf.measuring import pinned
from bench.perf.measuring.clock import fastest
from core.launch import command
from core.launch.fields import field

# jax is imported by the functions that need it: `pin` must come before its first import.

SCALE = 1.3
COMPARED = 3  # frames; feedback amplifies rounding in the later ones
IDS = {'audio_token_id': 10, 'audio_bos_token_id': 11, 'audio_eos_token_id': 12, 'eos_token_id': 13}


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  width: int = field(512, 'width of the language model; heads of 64, feed-forward three times the width', low=128)
  layers: int = field(8, 'layers of the language model', low=1)
  filters: int = field(8, 'channels of the first stage of the tokenizers; 32 are published', low=1)
  prompt: int = field(64, 'prompt tokens', low=2)
  frames: int = field(24, 'frames to speak', low=COMPARED)
  steps: int = field(10, 'solver steps a frame', low=1)
  repeats: int = field(3, 'timed runs of each arm', low=1)


def reference(options: Options) -> Any:
  """A random transformers model of the asked shape that always speaks."""
  import torch
  from transformers import VibeVoiceConfig, VibeVoiceForConditionalGeneration

  tokenizer = {
    'num_filters': options.filters,
    'downsampling_ratios': [2, 2, 4, 5, 5, 8],
    'depths': [3, 3, 3, 3, 3, 3, 8],
    'layer_scale_init_value': 0.4,
  }
  language = {
    'model_type': 'qwen2',
    'vocab_size': 2048,
    'hidden_size': options.width,
    'intermediate_size': 3 * options.width,
    'num_hidden_layers': options.layers,
    'num_attention_heads': options.width // 64,
    'num_key_value_heads': options.width // 128,
    'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e6},
    'tie_word_embeddings': False,
    'max_position_embeddings': 1024,
  }
  head = {'intermediate_size': 3 * options.width, 'num_hidden_layers': 4, 'frequency_embedding_size': 256}
  config = VibeVoiceConfig(
    text_config=language,
    audio_config={'model_type': 'vibevoice_acoustic_tokenizer', 'hidden_size': 64, **tokenizer},
    semantic_model_config={'model_type': 'vibevoice_acoustic_tokenizer_encoder', 'hidden_size': 128, **tokenizer},
    diffusion_head_config=head,
    pad_token_id=IDS['eos_token_id'],
    **IDS,
  )
  torch.manual_seed(0)
  net = VibeVoiceForConditionalGeneration(config).eval()
  for weight in net.parameters():
    if weight.ndim > 1:
      torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
  torch.nn.init.zeros_(net.lm_head.weight)
  return net


class Solver:
  """DPM-Solver++ for transformers, by our schedule; guidance comes combined."""

  timesteps = ()

  def set_timesteps(self, num_inference_steps: int) -> None:
    """Starts a latent."""
    import torch

    from vibevoice.diffusion import Schedule

    schedule = Schedule.of(num_inference_steps)
    self.timesteps = torch.tensor([float(t) for t in schedule.timesteps])
    names = ('alpha', 'sigma', 'decay', 'gain', 'slope')
    self._rows = iter(zip(*([float(x) for x in getattr(schedule, name)] for name in names)))
    self._previous = 0

  def step(self, velocity, timestep, sample) -> 'Solver':
    """One step; `prev_sample` holds its result."""
    alpha, sigma, decay, gain, slope = next(self._rows)
    x0 = alpha * sample - sigma * velocity
    self.prev_sample = decay * sample + gain * (x0 + slope * (x0 - self._previous))
    self._previous = x0
    return self


def converted(net) -> tuple[Any, Any]:
  """(config, params) of ours with the same weights."""
  import jax.numpy as jnp

  import vibevoice
  from vibevoice import generation

  with tempfile.TemporaryDirectory() as folder:
    net.save_pretrained(folder)
    config, params = vibevoice.load(folder, dtype=jnp.float32)
  return config, generation.for_decoding(params)


def arms(options: Options, net, config, params) -> dict:
  """Functions that speak the same script with the same noise: float32 [frames, hop]."""
  import numpy as np
  import torch

  from vibevoice import generation
  from vibevoice.generation import Given
  from vibevoice.inputs.processor import Inputs

  tokens = np.random.default_rng(0).integers(20, 2048, options.prompt).astype(np.int32)
  tokens[-1] = config.start
  torch.manual_seed(1)
  frames = [torch.randn(2, config.head.latent)[:1].numpy() for _ in range(options.frames)]
  noise = np.stack(frames, 1)
  inputs = Inputs(tokens=tokens, slots=np.zeros(options.prompt, bool))

  def ours():
    made = generation.begin(
      params, config, [inputs], steps=options.steps, scale=SCALE, limit=options.frames, given=Given(noise=noise)
    )
    return np.stack([frame.samples[0] for frame in made.frames()])

  def theirs():
    torch.manual_seed(1)
    ids = torch.tensor(tokens, dtype=torch.long)[None]
    with torch.inference_mode():
      (wav,) = net.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        noise_scheduler=Solver(),
        num_diffusion_steps=options.steps,
        guidance_scale=SCALE,
        max_new_tokens=options.frames,
        do_sample=False,
      )
    return wav.reshape(options.frames, -1).numpy()

  return {'ours': ours, 'theirs': theirs}


def work(options: Options) -> None:
  """Builds both arms, compares their first frames and prints the figures. Raises ValueError when the frames differ."""
  pinned.pin()
  import numpy as np
  import torch

  torch.set_num_threads(1)
  net = reference(options)
  config, params = converted(net)
  both = arms(options, net, config, params)
  start = time.process_time()
  got = both['ours']()
  first = time.process_time() - start
  want = both['theirs']()
  difference = got[:COMPARED] - want[:COMPARED]
  gap = np.abs(difference).max() / want[:COMPARED].std()
  if not gap <= 1e-3:
    raise ValueError(f'the first {COMPARED} frames differ by {gap:.1e} of their deviation')
  seconds = fastest(both, repeats=options.repeats)
  rate = {name: options.frames / least for name, least in seconds.items()}
  weights = sum(weight.numel() for weight in net.parameters())
  print(f'{weights / 1e6:.0f} M weights, float32, {options.frames} frames of {options.steps} solver steps, one thread')
  print(
    f'ours {rate["ours"]:.2f} frames/s, transformers {rate["theirs"]:.2f}: {rate["ours"] / rate["theirs"]:.2f} times'
  )
  print(f'first run with compilation {first:.1f} s; first {COMPARED} frames differ by {gap:.1e} of their deviation')


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
