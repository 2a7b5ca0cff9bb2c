"""Values against sympy's, units against Pint's."""

import pint
import pytest
import sympy

from bench.seed.algebra.canonical import Context, canonical
from bench.seed.algebra.numeric import Point, evaluate
from bench.seed.algebra.symbolic import build
from bench.seed.nodes import Budget, names
from bench.seed.reading import units
from bench.seed.reading.parser import parse

TEXTS = [
  r'\frac{a+b^2}{\sqrt{c}}-3^{-a}',
  r'\sin(a)\cos b\tan c',
  r'\cot a+\sec b+\csc c',
  r'\sinh a-\cosh b\tanh c',
  r'\coth a+\operatorname{sech}b+\operatorname{csch}c',
  r'\arcsin\frac{a}{9}+\arccos\frac{b}{9}+\arctan c',
  r'\operatorname{arsinh}a+\operatorname{arcosh}(1+b)+\operatorname{artanh}\frac{c}{9}',
  r'\ln(a+ib)+\log_2 c',
  r'e^{-a}+\exp(ib)',
  r'|a-3ib|',
  r'\operatorname{Re}(a+ib)^3+\operatorname{Im}(a+ib)^3',
  r'\Gamma(a+1)+c!',
  r'\binom{7}{3}+\binom{a+5}{2}',
  r'\zeta(a+2)',
  r'\operatorname{erf}(a)',
  r'\sqrt[3]{a}+\sqrt[5]{b^2}',
  r'a^{b^{c}}',
  r'\pi^2 a+45^\circ',
  r'\max(a,b,c)-\min(a,b)',
  r'1.25\times10^{-3}a',
  r'-a^2+(-a)^2-a^{-2}',
  r'a/bc\cdot d',
]


@pytest.mark.parametrize('text', TEXTS)
def test_values_agree_with_sympy(text):
  tree = parse(text)
  values = {n: 0.3 + 0.4 * k for k, n in enumerate(names(tree))}
  context = Context({n: float(k) for k, n in enumerate(values)}, frozenset(), Budget(10**6))
  point = Point({}, 30, Budget(10**6))
  point.values = {n: point.mp.mpf(str(v)) for n, v in values.items()}
  canon = canonical(tree, context)
  symbols = {sympy.Symbol(f's{float(k)}', positive=True): sympy.Rational(str(v)) for k, v in enumerate(values.values())}
  # The tree as it was read goes to sympy, both it and its canonical form through our own evaluation.
  want = complex(sympy.N(build(tree, context).subs(symbols), 25))
  for node in (tree, canon):
    assert complex(evaluate(node, point)) == pytest.approx(want, rel=1e-14, abs=1e-14)


_PINT = {
  'Ω': 'ohm',
  'Å': 'angstrom',
  'deg': 'degree',
  'h': 'hour',
  'hr': 'hour',
  'd': 'day',
  'Oe': 'oersted_si',
  'yr': 'julian_year',
  'u': 'unified_atomic_mass_unit',
  'amu': 'unified_atomic_mass_unit',
  'b': 'barn',
  'Ha': 'hartree',
  'Ry': 'rydberg_energy',
  'degC': None,
  'degF': None,
  'G': 'tesla * 1e-4',
  'AU': 'astronomical_unit',
  'emu': 'ampere * meter ** 2 * 1e-3',
  'Hartree': 'hartree',
  'rpm': 'revolutions_per_minute',
  'ly': 'light_year',
  'mmHg': 'millimeter_Hg',
  'cal': 'calorie',
  'C': 'coulomb',
  'l': 'liter',
  'Torr': 'torr',
  'dyn': 'dyne',
  'dyne': 'dyne',
  'year': 'julian_year',
}


def test_units_agree_with_pint():
  registry = pint.UnitRegistry()
  registry.define('oersted_si = 1000 / (4 * pi) * ampere / meter')
  registry.define('rydberg_energy = planck_constant * speed_of_light * rydberg_constant')
  bases = [registry(b) for b in ('meter', 'kilogram', 'second', 'ampere', 'kelvin', 'mole', 'candela')]
  for name, unit in {**units._PREFIXED, **units._PLAIN}.items():
    theirs = _PINT.get(name, name)
    if theirs is None:
      continue
    quantity = registry.parse_expression(theirs).to_base_units()
    ours = registry.Quantity(float(unit.factor), '')
    for base, exponent in zip(bases, unit.powers):
      ours = ours * base ** float(exponent)
    assert (quantity / ours.to_base_units()).to('').magnitude == pytest.approx(1, rel=1e-6), name


def test_words_are_units_only_as_a_whole():
  assert units.lookup('Vs') == units.lookup('V').times(units.lookup('s'))
  assert units.lookup('ms').factor == pytest.approx(1e-3)
  for word in ('electrons', 'states', 'x', 'unknown', 'e', ''):
    assert units.lookup(word) is None
