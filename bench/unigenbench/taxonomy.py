"""The 27 test points in their 10 primary dimensions, and the names of themes, in both languages.

Names are those of the released prompt files; the definitions are ours.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class TestPoint:
  """A sub-criterion: its name and definition in English and in Chinese."""

  __test__ = False  # not a test class, despite its name

  en: str
  zh: str
  asks_en: str
  asks_zh: str

  @property
  def primary(self) -> str:
    return self.en.split(' - ')[0]


TEST_POINTS = tuple(
  TestPoint(*row)
  for row in (
    (
      'Style',
      '风格',
      'The image is in the named style of art, photography or design, or in the manner of the named artist.',
      '画面呈现了所要求的艺术、摄影或设计风格，或指定艺术家的手法。',
    ),
    (
      'World Knowledge',
      '世界知识',
      'A real person, place, building, fact or well-known image that the prompt names '
      'looks the way it does in reality.',
      '提示中提到的真实人物、地点、建筑、常识或流行形象，与现实中的样子相符。',
    ),
    (
      'Attribute - Quantity',
      '属性-数量',
      'The number of the named things is exactly as stated.',
      '所述事物的数量与要求完全一致。',
    ),
    (
      'Attribute - Expression',
      '属性-表情',
      'A face shows the named emotion as a whole, not just one facial movement.',
      '面部整体表现出所述情绪，而不仅是某个面部动作。',
    ),
    (
      'Attribute - Material',
      '属性-材质',
      'The thing is made of the named material or has its surface.',
      '事物由所述材质构成，或具有该材质的质感。',
    ),
    (
      'Attribute - Size',
      '属性-大小',
      'Size, height, length, thickness or width is as stated.',
      '大小、高矮、长短、厚薄或宽窄与要求一致。',
    ),
    ('Attribute - Shape', '属性-形状', 'The shape of the thing is as stated.', '事物的形状与要求一致。'),
    ('Attribute - Color', '属性-颜色', 'The colour of the thing is as stated.', '事物的颜色与要求一致。'),
    (
      'Action - Hand (Character/Anthropomorphic)',
      '动作-人物/拟人手部动作',
      'The hands do what is stated, and are anatomically sound.',
      '手部做出了所述动作，且手部结构正常。',
    ),
    (
      'Action - Full-body (Character/Anthropomorphic)',
      '动作-人物/拟人全身动作',
      'A person or a person-like figure holds the stated pose or moves as stated, with the whole body.',
      '人物或拟人形象的全身姿态或动作与要求一致。',
    ),
    ('Action - Animal', '动作-动物动作', 'The animal does what is stated.', '动物做出了所述动作。'),
    (
      'Action - Contact Interaction',
      '动作-实体间有接触互动',
      'Two things act on each other as stated while touching.',
      '两个实体在相互接触的情况下发生所述互动。',
    ),
    (
      'Action - Non-contact Interaction',
      '动作-实体间无接触互动',
      'Two things act on each other as stated without touching, by a look for example.',
      '两个实体在没有接触的情况下发生所述互动，例如对视。',
    ),
    ('Action - State', '动作-状态', 'The thing is in the stated lasting state.', '事物处于所述的持续状态。'),
    (
      'Relationship - Comparison',
      '关系-比较关系',
      'One thing exceeds or falls short of another as stated.',
      '一个事物在所述方面超过或不及另一个事物。',
    ),
    (
      'Relationship - Composition',
      '关系-构成关系',
      'A whole consists of the stated parts.',
      '一个整体由所述的部分构成。',
    ),
    (
      'Relationship - Inclusion',
      '关系-包含关系',
      'A thing is inside the stated container, or shown upon it.',
      '事物位于所述容器之中，或呈现在其表面。',
    ),
    (
      'Relationship - Similarity',
      '关系-相似关系',
      'Different things resemble each other in the stated way.',
      '不同的事物在所述方面相似。',
    ),
    (
      'Compound - Imagination',
      '复合考点-想象力',
      'Something that cannot exist in reality is shown as stated.',
      '现实中不可能存在的事物按要求呈现出来。',
    ),
    (
      'Compound - Feature Matching',
      '复合考点-不同实体特征匹配',
      'Each of several things has the features stated for it, and not those of another.',
      '多个实体各自具有其所述特征，互不混淆。',
    ),
    (
      'Grammar - Pronoun Reference',
      '语法-代词指代',
      'What a pronoun says is shown for the thing that it stands for.',
      '代词所述内容体现在其所指代的对象上。',
    ),
    (
      'Grammar - Consistency',
      '语法-统一性',
      'A feature stated for several things is seen in every one of them.',
      '对多个实体共同提出的特征，在每一个实体上都成立。',
    ),
    ('Grammar - Negation', '语法-否定', 'What the prompt rules out is absent.', '提示中否定的内容没有出现。'),
    (
      'Entity Layout - Two-Dimensional Space',
      '实体布局-二维空间',
      'Things stand left, right, above or below one another, or within the picture, as stated.',
      '事物在画面中的上下左右位置与要求一致。',
    ),
    (
      'Entity Layout - Three-Dimensional Space',
      '实体布局-三维空间',
      'Things stand before, behind or around one another, or at the stated depth.',
      '事物的前后、环绕或远近关系与要求一致。',
    ),
    (
      'Logical Reasoning',
      '逻辑推理',
      'What the prompt implies without saying it is shown.',
      '提示中隐含而未明说的内容得到体现。',
    ),
    (
      'Text Generation',
      '文本生成',
      'The requested words appear, complete and legible, with no other words added.',
      '所要求的文字完整、清晰地出现，且没有多余的文字。',
    ),
  )
)

BY_NAME = {name: point for point in TEST_POINTS for name in (point.en, point.zh)}
PRIMARIES = tuple(dict.fromkeys(point.primary for point in TEST_POINTS))

THEMES = {
  '艺术': 'Art',
  '影视故事': 'Film & Story',
  '配图': 'Illustration',
  '设计': 'Design',
  '创意发散': 'Creative Divergence',
}
SUBJECTS = {
  '人物': 'Character',
  '动物': 'Animal',
  '其他实体': 'Other Entity',
  '场景': 'Scene',
  '拟人': 'Anthropomorphic',
}

# Sub-theme → its spellings in the four files, lower case and without the theme's own name in front.
_SUB_THEMES = {
  'Graphic Art': ('graphic art', '平面艺术'),
  'Photography Art': ('photography art', '摄影艺术'),
  'Sculptural Art': ('sculptural art', 'three-dimensional art', '立体艺术'),
  'Other': ('other', '其他'),
  'Imaginative Thinking': ('imaginative thinking', 'imagination divergence', '想象力发散'),
  'Advertising / e-commerce': ('advertising/e-commerce design', '广告/电商设计'),
  'Design Assets': ('design assets', '设计素材'),
  'Fashion': ('fashion design', '服装设计'),
  'Game': ('game design', '游戏设计'),
  'Intellectual property (IP)': ('ip design', 'ip设计'),
  'Logo / icon': ('logo/icon design', 'logo/icon设计'),
  'Poster': ('poster design', '海报设计'),
  'Spatial': ('spatial design', 'space design', '空间设计'),
  'User interface': ('ui design', '软件界面设计'),
  'Animation': ('animation', '动画'),
  'Realism': ('realism', '写实'),
  'Science fiction': ('sci-fi', '科幻'),
  'Content': ('content illustration', 'content mapping', '内容配图'),
  'Copywriting': ('copywriting illustration', '文案配图'),
}
_SPELLINGS = {spelling: name for name, spellings in _SUB_THEMES.items() for spelling in spellings}
_PREFIXES = (
  'art-',
  'creative divergence-',
  'creativity divergence-',
  'design-',
  'mapping-',
  '艺术-',
  '创意发散-',
  '设计-',
  '配图-',
)


def sub_theme(theme: str, name: str) -> str:
  """The clean name of a sub-theme, "theme: sub-theme" because "Other" occurs under two themes."""
  low = name.strip().lower()
  for prefix in _PREFIXES:
    if low.startswith(prefix):
      low = low.removeprefix(prefix)
      break
  return f'{theme}: {_SPELLINGS.get(low, name.strip())}'
