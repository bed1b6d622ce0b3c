"""The checks that scikit-learn's suite cannot run on transformers of bars, repeated on bars."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import get_tags

from ensemble_kit.bars import PRICES, check_bars, instrument_codes
from ensemble_kit.datasets import make_bars
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.validation._audit import quiet
from ensemble_kit.validation._runs import NAN, is_cross_sectional, spoil
from ensemble_kit.validation.lookahead import check_lookback, check_no_lookahead

__all__ = ["TransformerCheckError", "check_bar_transformer"]


class TransformerCheckError(EnsembleKitError, AssertionError):
    """A transformer of bars breaks a rule that what stands behind it relies on."""


def check_bar_transformer(transformer: Any, bars: pd.DataFrame | None = None) -> list[str]:
    """Check on bars that a transformer keeps the rules of the toolkit.

    Parameters
    ----------
    transformer : transformer
        Bars in, columns out. It is cloned, never fitted itself.
    bars : DataFrame of shape (n, n_columns), default=None
        Bars of one instrument or of a panel; None for 400 synthetic bars. Give more where
        windows are longer.

    Returns
    -------
    list of str
        The names of the checks, all passed.

    Raises
    ------
    TransformerCheckError
        If a check fails; the message names every one that does, and why.

    See Also
    --------
    check_no_lookahead : Causality of anything, models and functions included.
    check_lookback : Whether the stated lookback is long enough.

    Notes
    -----
    The checks, by name:

    - `parameters`: `clone`, `get_params` and `set_params` agree; `fit` changes no parameter
      and returns the transformer, with `n_features_in_` and `feature_names_in_`;
    - `rows`: a row out for a row in, one block of float32 of shape (n, k);
    - `names`: k different names from `get_feature_names_out`;
    - `set_output`: ``set_output(transform="pandas")`` gives the same numbers, names, and the
      index of the bars, a panel's too;
    - `fit`: fitting again, and `fit_transform`, change nothing;
    - `pickle`: a pickled and a cloned transformer answer alike;
    - `input`: neither `fit` nor `transform` touches the bars;
    - `unfitted`: `transform` before `fit` raises `NotFittedError`, or, where the tag
      `requires_fit` is False, answers as after it;
    - `panel`: each instrument gets what it gets alone, one of a single bar and one of three
      included; not asked of a transformer that says `cross_sectional = True`;
    - `no_lookahead`: prefix and whole agree, see `check_no_lookahead`. What learns from the rows
      it is fitted on fails: bars to columns is computed once on all bars, before any fold;
    - `lookback`: what is stated is long enough, see `check_lookback`; not asked of a
      cross-sectional transformer either;
    - `missing`: rows of NaN and volumes of NaN survive; without the column `volume` the
      columns stay, or a `ValueError` names it;
    - `wrong_columns`: without one of the prices it answers as with it, or a `ValueError` names
      it; an array is answered, or a `ValueError` or `TypeError` raised.

    Examples
    --------
    >>> from ensemble_kit.features import SessionFeatures
    >>> from ensemble_kit.validation.transformer_checks import check_bar_transformer
    >>> len(check_bar_transformer(SessionFeatures()))
    13
    """
    if isinstance(transformer, type) or not (hasattr(transformer, "fit") and hasattr(transformer, "transform")):
        raise EnsembleKitError(
            f"`transformer` must have `fit` and `transform`; got {transformer!r:.60}. Pass an instance; functions and "
            "models go to `check_no_lookahead`."
        )
    bars = make_bars(400, random_state=0) if bars is None else check_bars(bars)
    failures = []
    for name, check in _CHECKS.items():
        try:
            with quiet():  # what NaN does to arithmetic is no failure
                check(_Subject.of(transformer, bars.copy()))  # a copy each: one that writes spoils one check
        except Exception as error:  # noqa: BLE001 - a user's code fails in any way; all checks are to report
            kind = "" if isinstance(error, _Broken) else f"{type(error).__name__}: "
            failures.append(f"{name}: {kind}{error}")
    if failures:
        listed = "\n".join(f"  {failure}" for failure in failures)
        count = f"{type(transformer).__name__} fails {len(failures)}"
        raise TransformerCheckError(f"`transformer` must pass {len(_CHECKS)} checks; {count}:\n{listed}")
    return list(_CHECKS)


class _Broken(Exception):  # noqa: N818 - what a check says when it fails, without a class in front
    pass


def _demand(kept: object, otherwise: str) -> None:
    if not kept:
        raise _Broken(otherwise)


@dataclass(frozen=True)
class _Subject:
    """The transformer, bars of one instrument (a panel, where it needs one), and a panel of ragged ones."""

    transformer: Any
    single: pd.DataFrame
    panel: pd.DataFrame

    @classmethod
    def of(cls, transformer: Any, bars: pd.DataFrame) -> Self:
        if isinstance(bars.index, pd.MultiIndex):
            names = bars.index.get_level_values(1)
            most = names.value_counts().index[0]
            one = bars if is_cross_sectional(transformer) else bars[names == most].droplevel(1)
            return cls(transformer, one, bars)
        third = len(bars) // 3
        # Every second bar, one bar and three bars beside the whole: no instrument has another's calendar.
        parts = {"whole": bars, "half": bars[third % 2 :: 2], "one": bars[third : third + 1], "three": bars[5:8]}
        panel = pd.concat(parts, names=["instrument"]).swaplevel().sort_index()
        return cls(transformer, panel if is_cross_sectional(transformer) else bars, panel)

    def fresh(self, *, pandas: bool = False) -> Any:
        made = clone(self.transformer)
        return made.set_output(transform="pandas" if pandas else "default")

    def answer(self, bars: pd.DataFrame) -> NDArray[Any]:
        return np.asarray(self.fresh().fit(bars).transform(bars))


def _same(a: Any, b: Any) -> bool:
    return bool(np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True))


def _parameters(s: _Subject) -> None:
    copy = clone(s.transformer)
    before = copy.get_params()
    _demand(copy.set_params(**before) is copy, "`set_params` must return the transformer")
    _demand(copy.fit(s.single) is copy, "`fit` must return the transformer")
    after = copy.get_params()
    changed = [name for name in before if repr(before[name]) != repr(after.get(name))]
    _demand(not changed, f"`fit` must leave the parameters alone; it changes {', '.join(changed)}")
    seen = getattr(copy, "n_features_in_", None)
    _demand(seen == s.single.shape[1], f"`n_features_in_` must be {s.single.shape[1]} after `fit`; got {seen}")
    names = list(getattr(copy, "feature_names_in_", []))
    _demand(names == list(s.single.columns), f"`feature_names_in_` must be the bars' columns; got {names}")


def _rows(s: _Subject) -> None:
    for bars in (s.single, s.panel, s.single[:1]):
        out = s.fresh().fit(s.single if bars is not s.panel else bars).transform(bars)
        _demand(isinstance(out, np.ndarray) and out.ndim == 2, f"must return a 2-D array; got {type(out).__name__}")
        _demand(len(out) == len(bars), f"must return a row for a row; got {len(out)} for {len(bars)}")
        _demand(out.dtype == np.float32, f"must return one block of float32; got {out.dtype}")


def _names(s: _Subject) -> None:
    fitted = s.fresh().fit(s.single)
    names, width = list(fitted.get_feature_names_out()), fitted.transform(s.single).shape[1]
    _demand(len(names) == width, f"must have a name a column; got {len(names)} names for {width} columns")
    _demand(all(isinstance(name, str) for name in names), "names must be strings")
    twice = sorted({name for name in names if names.count(name) > 1})
    _demand(not twice, f"names must differ; got {', '.join(twice)} more than once")


def _set_output(s: _Subject) -> None:
    for kind, bars in (("one instrument", s.single), ("a panel", s.panel)):
        fitted = s.fresh(pandas=True).fit(bars)
        frame = fitted.transform(bars)
        _demand(isinstance(frame, pd.DataFrame), f"must return a DataFrame; got {type(frame).__name__}")
        _demand(frame.index.equals(bars.index), f"must keep the index of the bars of {kind}, in their order")
        _demand(frame.index.names == bars.index.names, f"must keep the names of the index of {kind}")
        names = list(fitted.get_feature_names_out())
        _demand(list(frame.columns) == names, "columns must be those of `get_feature_names_out`")
        other = sorted({str(dtype) for dtype in frame.dtypes} - {"float32"})
        _demand(not other, f"must return float32 throughout; got {', '.join(other)}")
        _demand(_same(frame, s.answer(bars)), f"must hold the numbers of the array for {kind}")


def _fit(s: _Subject) -> None:
    fitted = s.fresh().fit(s.single)
    once = fitted.transform(s.single)
    _demand(_same(once, fitted.transform(s.single)), "`transform` must answer alike twice")
    _demand(
        _same(once, fitted.fit(s.single).transform(s.single)), "a second `fit` on the same bars must change nothing"
    )
    _demand(_same(once, s.fresh().fit_transform(s.single)), "`fit_transform` must equal `fit` and `transform`")


def _pickle(s: _Subject) -> None:
    fitted = s.fresh().fit(s.panel)
    out = fitted.transform(s.panel)
    _demand(_same(out, pickle.loads(pickle.dumps(fitted)).transform(s.panel)), "must answer alike after a pickle")
    _demand(_same(out, clone(fitted).fit(s.panel).transform(s.panel)), "must answer alike after `clone`")


def _input(s: _Subject) -> None:
    for bars in (s.single, s.panel):
        given = bars.copy(deep=True)
        transformer = s.fresh().fit(given)
        _demand(given.equals(bars) and list(given.columns) == list(bars.columns), "`fit` must not touch the bars")
        transformer.transform(given)
        _demand(given.equals(bars) and list(given.columns) == list(bars.columns), "`transform` must not touch the bars")


def _unfitted(s: _Subject) -> None:
    if get_tags(s.transformer).requires_fit:
        try:
            s.fresh().transform(s.single)
        except NotFittedError:
            return
        raise _Broken("`transform` before `fit` must raise NotFittedError, or the tag `requires_fit` be False")
    _demand(_same(s.fresh().transform(s.single), s.answer(s.single)), "must answer before `fit` as after it")


def _panel(s: _Subject) -> None:
    if is_cross_sectional(s.transformer):
        return
    whole = s.answer(s.panel)
    codes, instruments = instrument_codes(s.panel.index)
    for code, instrument in enumerate(instruments):
        bars = s.panel[codes == code]
        here, alone = whole[codes == code], s.answer(bars.droplevel(1))
        mixed = np.asarray(((here != alone) & ~(np.isnan(here) & np.isnan(alone))).any(axis=1))
        _demand(
            not mixed.any(),
            f"instruments must not mix; {instrument!r} gets other numbers in the panel than alone in "
            f"{int(mixed.sum())} of {len(mixed)} rows, first at {bars.index[int(np.argmax(mixed))][0]}",
        )


def _no_lookahead(s: _Subject) -> None:
    for bars in (s.single, s.panel):
        report = check_no_lookahead(s.transformer, bars, fit=True)
        _demand(report.ok, repr(report))


def _lookback(s: _Subject) -> None:
    if is_cross_sectional(s.transformer):  # its answer needs the other instruments' bars, not earlier ones
        return
    report = check_lookback(s.fresh(), s.single, n_rows=64)
    _demand(report.ok, repr(report))


def _missing(s: _Subject) -> None:
    shape = s.answer(s.single).shape
    rows = np.arange(len(s.single))
    gaps = spoil(s.single, (rows % 50 == 7) | (rows < 2) | (rows % 97 < 5), NAN)
    for what, bars in (("rows of NaN", gaps), ("volumes of NaN", s.single.assign(volume=np.nan))):
        got = s.answer(bars).shape
        _demand(got == shape, f"must survive {what} with shape {shape}; got {got}")
    out = _without(s, "volume")
    _demand(out is None or out.shape == shape, "must keep its columns without the column 'volume'")


def _wrong_columns(s: _Subject) -> None:
    whole = s.answer(s.single)
    for column in PRICES:
        out = _without(s, column)
        _demand(out is None or _same(out, whole), f"must say that {column!r} is missing; it answers something else")
    with contextlib.suppress(ValueError, TypeError):
        s.fresh().fit(s.single.to_numpy())


def _without(s: _Subject, column: str) -> NDArray[Any] | None:
    """Return the answer on bars that lack a column; None where a ValueError names it."""
    try:
        return s.answer(s.single.drop(columns=column, errors="ignore"))
    except Exception as error:
        if isinstance(error, ValueError) and column in str(error):
            return None
        raise _Broken(f"without {column!r} a ValueError must name it; got {type(error).__name__}: {error}") from error


_CHECKS: dict[str, Callable[[_Subject], None]] = {
    check.__name__[1:]: check
    for check in (
        *(_parameters, _rows, _names, _set_output, _fit, _pickle, _input, _unfitted),
        *(_panel, _no_lookahead, _lookback, _missing, _wrong_columns),
    )
}
