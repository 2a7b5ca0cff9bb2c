"""Tables of LaTeX and Unicode spellings: aliases, commands that are dropped, commands that take text."""

import re

from bench.seed.nodes import words

_FORMULA = re.compile(r'(\$\$.+?\$\$|(?<!\\)\$.+?(?<!\\)\$)', re.DOTALL)
_PLAIN_WORDS = re.compile(
  r'(?P<before>(?:\\[,;:!]|[\s,;~])*)(?P<words>[^\\{}^_=]*?[A-Za-z]{2,}[^\\{}^_=]*?)(?P<after>[\s,;:~]*)'
)
_OPENING_COMMA = re.compile(r'(?<!\\),\s*$')  # the comma after "Therefore", which separates nothing
_EXTREMUM = re.compile(r'\$\\(max|min)\$')  # a word, as in "max at x = 2", although written as a command
_EXTREMUM_LAST = re.compile(r'\\(max|min)\$')

_LETTERS = 'αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΥΦΨΩϵϕϑϱ'
_NAMES = (
  'alpha beta gamma delta varepsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon '
  'varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega varepsilon phi '
  'vartheta varrho'
)
UNICODE = {c: f'\\{name} ' for c, name in zip(_LETTERS, _NAMES.split())} | {
  'ħ': r'\hbar ',
  'ℏ': r'\hbar ',
  '∞': r'\infty ',
  '×': r'\times ',
  '·': r'\cdot ',
  '⋅': r'\cdot ',
  '−': '-',
  '–': '-',
  '±': r'\pm ',
  '∓': r'\mp ',
  '÷': '/',
  '√': r'\sqrt ',
  '∂': r'\partial ',
  '∇': r'\nabla ',
  '∫': r'\int ',
  '∑': r'\sum ',
  '∏': r'\prod ',
  '≤': r'\leq ',
  '≥': r'\geq ',
  '≠': r'\neq ',
  '≈': r'\approx ',
  '≃': r'\simeq ',
  '≡': r'\equiv ',
  '∝': r'\propto ',
  '∈': r'\in ',
  '∪': r'\cup ',
  '→': r'\to ',
  '′': "'",
  '″': "''",
  '’': "'",
  '†': r'\dagger ',
  '⟨': r'\langle ',
  '⟩': r'\rangle ',
  '°': r'^{\circ}',
  'µ': r'\mu ',
  '\u00c5': r'\AA ',
  '\u212b': r'\AA ',
  '\u2126': r'\Omega ',
  '℃': r'^{\circ}\mathrm{C}',
  '，': ',',
  '（': '(',
  '）': ')',
  '．': '.',
  '…': r'\ldots ',
  'ℓ': r'\ell ',
  '\u2009': ' ',
  '\u202f': ' ',
  '\u00a0': ' ',
  '\u200b': ' ',
}
SUPERSCRIPTS = dict(zip('⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻', '0123456789+-'))
SUBSCRIPTS = dict(zip('₀₁₂₃₄₅₆₇₈₉', '0123456789'))

ALIASES = {
  'dfrac': 'frac',
  'tfrac': 'frac',
  'cfrac': 'frac',
  'nicefrac': 'frac',
  'sfrac': 'frac',
  'dbinom': 'binom',
  'tbinom': 'binom',
  'epsilon': 'varepsilon',
  'hslash': 'hbar',
  'le': 'leq',
  'leqslant': 'leq',
  'leqq': 'leq',
  'ge': 'geq',
  'geqslant': 'geq',
  'geqq': 'geq',
  'ne': 'neq',
  'lt': '<',
  'gt': '>',
  'ast': '*',
  'star': '*',
  'vert': '|',
  'mid': '|',
  'lbrace': '\\{',
  'rbrace': '\\}',
  'lbrack': '[',
  'rbrack': ']',
  'colon': ':',
  'arrow': 'to',
  'rightarrow': 'to',
  'longrightarrow': 'to',
  'Rightarrow': 'implies',
  'Longrightarrow': 'implies',
  'iff': 'implies',
  'mod': 'bmod',
  'leftarrow': 'gets',
  'longleftarrow': 'gets',
  'rightleftharpoons': 'to',
  'leftrightharpoons': 'to',
  'rightleftarrows': 'to',
  'Leftrightarrow': 'implies',
  'dag': 'dagger',
  'bm': 'vec',
  'boldsymbol': 'vec',
  'mathbf': 'vec',
  'pmb': 'vec',
  'textbf': 'vec',
  'bf': 'vec',
  'overrightarrow': 'vec',
  'widehat': 'hat',
  'widetilde': 'tilde',
  'dots': 'ldots',
  'cdots': 'ldots',
  'dotsc': 'ldots',
  'lVert': '\\|',
  'rVert': '\\|',
  'Vert': '\\|',
  'div': '/',
  'imath': 'i',
  'lparen': '(',
  'rparen': ')',
  'Tr': 'tr',
  'tg': 'tan',
  'ctg': 'cot',
  'arctg': 'arctan',
  'sh': 'sinh',
  'ch': 'cosh',
  'th': 'tanh',
  'lvert': 'open|',
  'rvert': 'close|',
  'degree': 'circ',
  'bullet': 'cdot',
  'ohm': 'Omega',
  'angstrom': 'AA',
  'lesssim': 'lesssim',
  'lessapprox': 'lesssim',
  'gtrapprox': 'gtrsim',
  'leftrightarrow': 'to',
  'longleftrightarrow': 'to',
  'upmu': 'mu',
  'micro': 'mu',
  'abs': 'abs',
  'oslash': 'emptyset',
  'mapsto': 'to',
  'smallsetminus': 'setminus',
  'vb': 'vec',
  'va': 'vec',
  'vu': 'hat',
  'flatfrac': 'frac',
  'cross': 'times',
  'vdot': 'cdot',
}
DROPPED = words(
  'displaystyle textstyle scriptstyle limits nolimits mathstrut thinspace rm it sf tt nonumber notag '
  'boldmath strut negthinspace enspace centering big Big bigg Bigg left right middle bigl bigr Bigl '
  'Bigr biggl biggr Biggl Biggr space mathclose mathopen bigm Bigm hline'
)
SPACES = frozenset(('\\,', '\\;', '\\:', '\\!', '\\ ', '\\(', '\\)', '\\[', '\\]', '\\/', '\\-'))
ROMAN = words('mathrm mathit mathsf mathtt mathnormal textit textrm mathup up')
TEXT = words('text textnormal mbox hbox textsf texttt operatorname emph')
LEFT = words('left bigl Bigl biggl Biggl')
RIGHT = words('right bigr Bigr biggr Biggr')
SKIP_ARGUMENT = words('hspace vspace label tag phantom hphantom vphantom color ref')

WRAPPERS = words(
  'boxed fbox mathinner mathop mathord mathbin mathrel underbrace overbrace mathclap textcircled cancel bcancel xcancel'
)

# Function names that count without a backslash.
PLAIN_FUNCTIONS = words(
  'sin cos tan cot sec csc sinh cosh tanh coth exp ln log sqrt arcsin arccos arctan arcsinh arccosh arctanh'
)


def words_as_text(text: str) -> str:
  """`text` with a text command around the words between its formulas, which are in dollar signs."""
  text = _EXTREMUM_LAST.sub(r'$\1', _EXTREMUM.sub(r'\1', text))
  pieces = _FORMULA.split(text)
  if len(pieces) == 1:
    return text
  pieces[0] = _OPENING_COMMA.sub('', pieces[0])
  pieces[-1] = pieces[-1].rstrip(' .\n')
  for place in range(0, len(pieces), 2):  # the pieces between formulas
    words = _PLAIN_WORDS.fullmatch(pieces[place])
    if words:
      pieces[place] = rf'{words["before"]}\text{{{words["words"]}}}{words["after"]}'
  return ''.join(pieces)
