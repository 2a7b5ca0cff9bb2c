"""Linear probes: what can be read off each layer (arXiv 2508.15882, section 3), with the controls that make it mean
something.

L layers   n items   D width   K classes
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

Z95 = 1.959964  # two-sided normal quantile


@dataclasses.dataclass(frozen=True)
class Probe:
  """Cross-validated scores of every layer.

  accuracy: float [L], share of held-out items (R² of a regression). interval: float [L, 2], Wilson's 95 % interval of
  the accuracy over the `items` independent items, groups if they were given; NaN for a regression.
  control: float [L], the same score on shuffled labels. selectivity: accuracy less control (arXiv 1909.03368).
  chance: the share of the largest class; 0 of a regression.
  """

  accuracy: np.ndarray
  interval: np.ndarray
  control: np.ndarray
  chance: float
  items: int

  @property
  def selectivity(self) -> np.ndarray:
    """float [L]."""
    return self.accuracy - self.control


def fit(
  features: np.ndarray,
  labels: Sequence,
  *,
  groups: Sequence | None = None,
  kind: str = 'logistic',
  folds: int = 5,
  penalty: float = 1.0,
  seed: int = 0,
) -> Probe:
  """A probe of each layer of features [L, n, D] for labels [n], cross-validated on the same folds.

  groups: [n], speakers say; a group is never on both sides of a fold, and counts as one item in the interval. kind:
  'logistic' (classes) or 'linear' (numbers, ridge). penalty: L2, on standardised features.
  Raises ValueError for shapes that disagree, an unknown kind, a single class, and fewer items or groups than folds.
  """
  features = np.asarray(features, np.float32)
  labels = np.asarray(labels)
  _check(features, labels, groups, kind, folds)
  control = _shuffled(labels, groups, np.random.default_rng(seed))
  splits = _splits(features, labels, groups, kind, folds, seed)
  score = np.stack([_held_out(x, labels, splits, kind, penalty) for x in features])
  shuffled = np.stack([_held_out(x, control, splits, kind, penalty) for x in features])
  if kind == 'linear':
    r2 = _r2(score, labels)
    nothing = np.full((len(r2), 2), np.nan)
    return Probe(r2, nothing, _r2(shuffled, control), 0.0, len(labels))
  right = score == labels
  accuracy = right.mean(1)
  items = len(labels) if groups is None else len(np.unique(groups))
  _, counts = np.unique(labels, return_counts=True)
  chance = float(counts.max() / len(labels))
  return Probe(accuracy, wilson(accuracy, items), (shuffled == control).mean(1), chance, items)


def wilson(share: np.ndarray, items: int) -> np.ndarray:
  """Wilson's 95 % interval [..., 2] of a share among `items` independent items."""
  square = Z95**2 / items
  centre = share + square / 2
  variance = share * (1 - share) / items + square / (4 * items)
  half = Z95 * np.sqrt(variance)
  return np.stack([centre - half, centre + half], -1) / (1 + square)


def pooled(states: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """Features [L, B, D]: states [L, B, T, D] averaged over the frames in `mask` [B, T], speech and not silence, say.

  Raises ValueError for a row without a frame.
  """
  count = np.asarray(mask).sum(1)
  if (count == 0).any():
    raise ValueError(f'pooled: row {int(count.argmin())} has no frame in the mask')
  return np.einsum('lbtd,bt->lbd', states, mask) / count[:, None]


def _check(features, labels, groups, kind: str, folds: int) -> None:
  if features.ndim != 3 or features.shape[1] != len(labels):
    raise ValueError(f'probe: features {features.shape} and {len(labels)} labels; expected [layers, items, width]')
  if kind not in ('logistic', 'linear'):
    raise ValueError(f"probe: kind={kind!r}; expected 'logistic' or 'linear'")
  if groups is not None and len(groups) != len(labels):
    raise ValueError(f'probe: {len(groups)} groups and {len(labels)} labels; expected one each')
  if not np.isfinite(features).all():
    raise ValueError('probe: features are not finite')
  if kind == 'logistic' and len(np.unique(labels)) < 2:
    raise ValueError(f'probe: one class only, {labels[0]!r}; expected two or more')
  items = len(labels) if groups is None else len(np.unique(groups))
  if not 2 <= folds <= items:
    raise ValueError(f'probe: folds={folds}; expected 2 to {items}, the number of items or groups')


def _shuffled(labels: np.ndarray, groups, r: np.random.Generator) -> np.ndarray:
  """The control: labels permuted over items, or over groups where a group has one label.

  Shuffling items inside such groups would make a task that no grouped probe could learn, and an easy control.
  """
  if groups is None:
    return r.permutation(labels)
  names, of_group = np.unique(groups, return_inverse=True)
  by_group = [labels[of_group == g] for g in range(len(names))]
  if any(len(np.unique(own)) > 1 for own in by_group):
    return r.permutation(labels)
  first = np.array([own[0] for own in by_group])
  return r.permutation(first)[of_group]


def _splits(features, labels, groups, kind: str, folds: int, seed: int) -> list:
  """(train, test) indices of each fold, the same for all layers."""
  from sklearn import model_selection

  options = {'n_splits': folds, 'shuffle': True, 'random_state': seed}
  if kind == 'linear' and groups is not None:
    splitter = model_selection.GroupKFold(folds)
  elif kind == 'linear':
    splitter = model_selection.KFold(**options)
  elif groups is None:
    splitter = model_selection.StratifiedKFold(**options)
  else:
    splitter = model_selection.StratifiedGroupKFold(**options)
  return list(splitter.split(features[0], labels, groups))


def _held_out(x: np.ndarray, labels: np.ndarray, splits: list, kind: str, penalty: float) -> np.ndarray:
  """Predictions [n] for each item of x [n, D] by the probe that did not see it."""
  from sklearn.linear_model import LogisticRegression, Ridge
  from sklearn.pipeline import make_pipeline
  from sklearn.preprocessing import StandardScaler

  is_logistic = kind == 'logistic'
  predicted = np.empty(len(labels), labels.dtype if is_logistic else np.float64)
  for train, test in splits:
    if is_logistic:
      probe = LogisticRegression(C=1 / penalty, max_iter=1000)
    else:
      probe = Ridge(alpha=penalty)
    pipeline = make_pipeline(StandardScaler(), probe)
    pipeline.fit(x[train], labels[train])
    predicted[test] = pipeline.predict(x[test])
  return predicted


def _r2(predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """R² [L] of predictions [L, n]."""
  errors = predicted - labels
  deviations = labels - labels.mean()
  residual = (errors**2).sum(1)
  return 1 - residual / (deviations**2).sum()
