"""The input side against transformers' own processors of the -HF checkpoints."""

import numpy as np
import pytest
from PIL import Image

from internvl.inputs import tiles, video
from internvl.inputs.processor import Processor
from internvl.inputs.processor_config import ProcessorConfig, read
from internvl.inputs.templates import IMAGE_CONTEXT, IMAGE_END, IMAGE_START

pytestmark = pytest.mark.parity
SIZES = [(448, 448), (633, 633), (634, 634), (800, 600), (1280, 720), (300, 1000), (97, 61), (900, 400)]


def noise(width, height):
  rng = np.random.default_rng(width * height)
  small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
  return small.resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope='module')
def image_processor():
  from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

  return GotOcr2ImageProcessorPil(
    size={'height': 448, 'width': 448},
    image_mean=list(tiles.MEAN),
    image_std=list(tiles.STD),
    crop_to_patches=True,
    min_patches=1,
    max_patches=12,
  )


@pytest.mark.parametrize('most', [1, 2, 6, 12, 24])
def test_grid_equals_transformers_get_optimal_tiled_canvas(most):
  from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

  rng = np.random.default_rng(most)
  sizes = [(int(w), int(h)) for w, h in rng.integers(1, 3000, (400, 2))]
  # Exact multiples and the midpoints between ratios are where ties are broken.
  exact = ((1, 1), (9, 4), (3, 2), (5, 2), (1, 2), (7, 6))
  sizes += [(a * k, b * k) for a, b in exact for k in range(10, 900, 70)]
  for width, height in sizes:
    want = get_optimal_tiled_canvas((height, width), (448, 448), 1, most)
    assert tiles.grid(width, height, max_tiles=most) == want, (width, height)


@pytest.mark.parametrize('size', SIZES)
def test_pixels_equal_transformers_GotOcr2ImageProcessorPil(image_processor, size):
  image = noise(*size)
  want = image_processor(image, return_tensors='np')
  got = tiles.normalize(tiles.tile(image, max_tiles=12))
  assert len(got) == want['num_patches'][0]
  np.testing.assert_allclose(got, want['pixel_values'].transpose(0, 2, 3, 1), atol=2e-6)


def test_frames_equal_transformers_InternVLVideoProcessor():
  import torch

  for total in [*range(1, 60), 99, 100, 301, 1000, 4321]:
    for n in {1, 2, 3, 7, 8, 16, 32, total} - set(range(total + 1, 99)):
      # sample_frames of transformers' video_processing_internvl; its class needs torchvision to be imported.
      want = torch.arange(total / n / 2, total, total / n).int().tolist()
      assert video.stepped(total, n) == want, (total, n)


@pytest.fixture(scope='module')
def pair(image_processor, byte_level, tmp_path_factory):
  """transformers' processor and ours, loaded from the files that it saved."""
  from transformers import InternVLProcessor

  class ImagesOnly(InternVLProcessor):
    """Its video half needs torchvision even to be absent."""

    def check_argument_for_proper_class(self, argument_name, argument):
      if argument_name != 'video_processor':
        super().check_argument_for_proper_class(argument_name, argument)

  tokenizer = type(byte_level)(
    tokenizer_object=byte_level.backend_tokenizer,
    eos_token='<|im_end|>',
    pad_token='<|endoftext|>',
    extra_special_tokens={
      'start_image_token': IMAGE_START,
      'end_image_token': IMAGE_END,
      'context_image_token': IMAGE_CONTEXT,
      'video_token': '<quad>',
    },
  )
  theirs = ImagesOnly(
    image_processor=image_processor,
    tokenizer=tokenizer,
    image_seq_length=256,
    video_processor=None,
    chat_template=TEMPLATE,
  )
  folder = tmp_path_factory.mktemp('hf')
  image_processor.save_pretrained(folder)
  tokenizer.save_pretrained(folder)
  (folder / 'processor_config.json').write_text('{"image_seq_length": 256}')
  (folder / 'config.json').write_text(
    '{"downsample_ratio": 0.5, "text_config": {"model_type": "qwen3"}, "model_type": "internvl", '
    '"vision_config": {"image_size": [448, 448], "patch_size": [14, 14]}}'
  )
  return theirs, Processor.load(folder)


# What the chat template of the -HF checkpoints does, in the sense of its output.
TEMPLATE = (
  "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
  '{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}'
  "{{ '<IMG_CONTEXT>\n' if c.type == 'image' else c.text }}{% endfor %}{% endif %}"
  "{{ '<|im_end|>\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_prompts_equal_transformers_InternVLProcessor(pair):
  theirs, ours = pair
  assert ours.config == ProcessorConfig(template='internvl_hf', share_tiles=False)
  images = [noise(800, 600), noise(448, 448), noise(900, 400)]
  two = [{'type': 'image'}, {'type': 'image'}, {'type': 'text', 'text': 'Which?'}]
  talk = [
    {'role': 'user', 'content': two},
    {'role': 'assistant', 'content': 'the first'},
    {'role': 'user', 'content': [{'type': 'text', 'text': 'and '}, {'type': 'image'}]},
  ]
  text = theirs.apply_chat_template(talk, add_generation_prompt=True)
  want = theirs(images=images, text=text, return_tensors='np')
  got = ours(talk, images)
  np.testing.assert_array_equal(got.tokens, want['input_ids'][0])
  np.testing.assert_allclose(got.pixels, want['pixel_values'].transpose(0, 2, 3, 1), atol=2e-6)


def test_saved_files_are_read_by_transformers_GotOcr2ImageProcessorPil(tmp_path, byte_level):
  from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

  config = ProcessorConfig(image_size=32, tokens_per_tile=16, max_tiles=5, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
  Processor(config, byte_level).save(tmp_path)
  assert read(tmp_path) == config
  image = noise(97, 61)
  want = GotOcr2ImageProcessorPil.from_pretrained(tmp_path)(image, return_tensors='np')['pixel_values']
  got = tiles.normalize(tiles.tile(image, max_tiles=5, size=32), config.mean, config.std)
  np.testing.assert_allclose(got, want.transpose(0, 2, 3, 1), atol=2e-6)
