"""Tiny random models of `transformers`, and everything they compute: what ours is compared with. Needs torch.

Weights are drawn so that a slip shows: norm scales away from one, eps that matter, activations where the two GELUs
differ, a rope base nobody defaults to, odd sizes, a vision stream small enough for the projector's eps to count.
"""

import pathlib

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, InternVLConfig, InternVLForConditionalGeneration

TEXTS = ('qwen2', 'qwen3', 'qwen3_moe', 'gpt_oss')
TOWERS = ('300m', '6b')
CASES = (*(f'{tower}-{text}' for tower in TOWERS for text in TEXTS), *(f'lm-{text}' for text in TEXTS), 'lm-llama')
IMAGE_TOKEN, VOCAB, NEW = 100, 101, 6
TILE, PATCH = 12, 2  # 6x6 patches, 3x3 image tokens


def text_config(kind: str) -> dict:
  """The `text_config` of a tiny decoder of a published family."""
  h = {
    'model_type': kind,
    'hidden_size': 36,
    'num_hidden_layers': 3,
    'num_attention_heads': 4,
    'num_key_value_heads': 2,
    'head_dim': 16,
    'intermediate_size': 44,
    'vocab_size': VOCAB,
    'rms_norm_eps': 3e-3,
    'rope_parameters': {'rope_type': 'default', 'rope_theta': 777.0},
    'max_position_embeddings': 256,
    'tie_word_embeddings': False,
    'bos_token_id': None,
    'eos_token_id': None,
    'pad_token_id': None,
  }
  experts = {'num_experts_per_tok': 2, 'num_hidden_layers': 2}
  if kind == 'qwen2':  # this family derives the head size
    h['head_dim'] = 9 * 2
    h.update(hidden_size=72, num_hidden_layers=2)
  if kind == 'qwen3_moe':
    h.update(experts, num_experts=6, moe_intermediate_size=20, norm_topk_prob=True)
  if kind == 'llama':
    llama3 = {
      'rope_type': 'llama3',
      'rope_theta': 1500.0,
      'factor': 4.0,
      'low_freq_factor': 1.0,
      'high_freq_factor': 3.0,
      'original_max_position_embeddings': 32,
    }
    h.update(rope_parameters=llama3, num_hidden_layers=2)
  if kind == 'gpt_oss':
    yarn = {
      'rope_type': 'yarn',
      'rope_theta': 1500.0,
      'factor': 4.0,
      'original_max_position_embeddings': 32,
      'beta_fast': 32.0,
      'beta_slow': 1.0,
      'truncate': False,
    }
    h.update(
      experts,
      num_local_experts=5,
      intermediate_size=20,
      sliding_window=5,
      rope_parameters=yarn,
      max_position_embeddings=128,
    )
  return h


def vision_config(tower: str) -> dict:
  """The `vision_config` of a tiny tower of either kind."""
  h = {
    'hidden_size': 20,
    'intermediate_size': 44,
    'num_hidden_layers': 2,
    'num_attention_heads': 2,
    'image_size': [TILE, TILE],
    'patch_size': [PATCH, PATCH],
    'layer_norm_eps': 1e-3,
  }
  if tower == '300m':
    return h | {'attention_bias': True, 'use_qk_norm': False, 'norm_type': 'layer_norm'}
  return h | {'attention_bias': False, 'use_qk_norm': True, 'norm_type': 'rms_norm'}


def model(case: str, seed: int = 0) -> torch.nn.Module:
  """A float32 model of one of CASES with weights re-drawn from `seed`; dense decoders on their own tie their head."""
  kind, text = case.split('-')
  torch.manual_seed(seed)
  if kind == 'lm':
    h = text_config(text)
    h['tie_word_embeddings'] = text in ('qwen2', 'qwen3')
    net = AutoModelForCausalLM.from_config(AutoConfig.for_model(**h), attn_implementation='eager')
  else:
    config = InternVLConfig(
      text_config=text_config(text),
      vision_config=vision_config(kind),
      tie_word_embeddings=False,
      image_token_id=IMAGE_TOKEN,
      attn_implementation='eager',
    )
    net = InternVLForConditionalGeneration(config)
  redraw(net, seed)
  return net.float().eval()


def redraw(net: torch.nn.Module, seed: int) -> None:
  """New weights, every one away from its initial value."""
  g = torch.Generator().manual_seed(seed)
  normal = lambda p: torch.randn(p.shape, generator=g)
  for name, p in net.named_parameters():
    if 'lambda' in name:
      p.data = 0.05 * (1 + 0.3 * normal(p))
    elif 'vision_tower.embeddings' in name:
      p.data = 0.02 * normal(p)
    elif 'norm' in name and p.ndim == 1 and 'bias' not in name:
      p.data = 1 + 0.3 * normal(p)
    elif p.ndim == 1 or name.endswith('_bias'):
      p.data = (1.0 if 'sinks' in name else 0.3) * normal(p)
    elif 'embed_tokens' in name:
      p.data = 0.7 * normal(p)
    else:
      p.data = 1.5 / p.shape[-1] ** 0.5 * normal(p)


def inputs(case: str, seed: int = 0, length: int = 34) -> dict[str, np.ndarray]:
  """Two rows of tokens, the first padded on the left; one image in the first, two in the second."""
  r = np.random.default_rng(seed)
  tokens = r.integers(0, IMAGE_TOKEN, (2, length))
  mask = np.ones((2, length), np.int32)
  mask[0, :5] = 0
  supervised = (r.random((2, length)) < 0.7) & (np.roll(mask, 1, 1) == 1)  # as targets: predicted by a real token
  supervised[:, :6] = False
  out = {'tokens': tokens.astype(np.int32), 'mask': mask, 'supervised': supervised}
  if not case.startswith('lm'):
    n = (TILE // PATCH // 2) ** 2
    for row, start in ((0, 8), (1, 2), (1, 2 + n + 3)):
      tokens[row, start : start + n] = IMAGE_TOKEN
      supervised[row, start : start + n] = False
    out['tokens'] = tokens.astype(np.int32)
    out['pixels'] = r.standard_normal((3, TILE, TILE, 3)).astype(np.float32)
  return out


def torch_inputs(x: dict) -> dict:
  """The arguments of a forward pass, and of `generate` but for `position_ids`."""
  args = {'input_ids': torch.tensor(x['tokens']).long(), 'attention_mask': torch.tensor(x['mask']).long()}
  if 'pixels' in x:
    args['pixel_values'] = torch.tensor(x['pixels']).permute(0, 3, 1, 2)
  return args


def run(net: torch.nn.Module, x: dict, positions: np.ndarray | None = None) -> dict[str, np.ndarray]:
  """Every stage's activations, logits and loss; leaves the gradients of the loss on the parameters."""
  out, hooks = {}, []

  def keep(module, name):
    def hook(_, args, result):
      out[name] = (result[0] if isinstance(result, tuple) else result).detach()

    hooks.append(module.register_forward_hook(hook))

  if 'pixels' in x:
    tower = net.model.vision_tower
    keep(tower.embeddings, 'vision.embed')
    for i, layer in enumerate(tower.encoder.layer):
      keep(layer, f'vision.block.{i}')
    keep(net.model.multi_modal_projector, 'projector')
  body = net.model.language_model if 'pixels' in x else net.model
  for i, layer in enumerate(body.layers):
    keep(layer, f'block.{i}')
  mask = torch.tensor(x['mask'])
  at = torch.tensor(positions) if positions is not None else (mask.cumsum(-1) - 1).clip(0)
  net.zero_grad()
  logits = net(**torch_inputs(x), position_ids=at.long()).logits
  for hook in hooks:
    hook.remove()
  supervised = torch.tensor(x['supervised'])[:, 1:]
  targets = torch.tensor(x['tokens'])[:, 1:].long()
  loss = torch.nn.functional.cross_entropy(logits[:, :-1][supervised], targets[supervised])
  loss.backward()
  if 'projector' in out:
    out['projector'] = out['projector'].reshape(len(x['pixels']), -1, body.config.hidden_size)
  out['logits'] = logits.detach()
  for name in out:
    if name.startswith('block') or name == 'logits':
      out[name] = out[name] * mask[..., None]
  return {k: v.numpy() for k, v in out.items()} | {'loss': np.float32(loss.item())}


def greedy(net: torch.nn.Module, x: dict, new: int = NEW) -> np.ndarray:
  """The ids `generate` appends greedily, [2, new]."""
  ids = net.generate(**torch_inputs(x), do_sample=False, max_new_tokens=new, pad_token_id=0, eos_token_id=None)
  return ids[:, x['tokens'].shape[1] :].numpy().astype(np.int32)


def save(net: torch.nn.Module, path) -> None:
  """`config.json` and `model.safetensors` as published."""
  net.save_pretrained(path)
  (pathlib.Path(path) / 'generation_config.json').unlink(missing_ok=True)


def save_gradients(net: torch.nn.Module, path) -> None:
  """The gradients under the published names: the model's own writer, its weights replaced."""
  kept = [p.data for p in net.parameters()]
  for p in net.parameters():
    p.data = p.grad.clone()
  save(net, path)
  for p, data in zip(net.parameters(), kept):
    p.data = data
