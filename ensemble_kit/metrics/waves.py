"""Scores of the next wave's slopes, and of the directions they make, beside their base rates."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, mean_absolute_error, mean_squared_error, r2_score

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.targets import check_row_weights

__all__ = ["direction_of", "loss_rate", "sideways_precision", "slope_threshold", "up_down_ratio", "wave_scores"]

FloatArray = NDArray[np.float64]

_COLUMNS = ("slope_high", "slope_low")
_DIRECTIONS = ("up", "down", "sideways")


def slope_threshold(slopes: Any) -> float:
    """Return tau, what a slope must exceed to be a direction: half the training slopes' deviation.

    Parameters
    ----------
    slopes : array-like of shape (n, 2)
        Slopes of highs and lows of training waves, never of those to be judged.

    Returns
    -------
    float
        Standard deviation (divided by the count) of both columns' slopes together, over 2.

    Raises
    ------
    EnsembleKitError
        If there are no slopes, not two columns, or values that are not finite.

    Examples
    --------
    >>> from ensemble_kit.metrics.waves import slope_threshold
    >>> slope_threshold([[1.0, 1.0], [-1.0, -1.0]])
    0.5
    """
    return float(_slopes(slopes, "slopes").std() / 2)


def direction_of(slopes: Any, *, tau: float) -> NDArray[np.str_]:
    """Name the direction of each wave: where both lines go.

    Parameters
    ----------
    slopes : array-like of shape (n, 2)
        Slopes of highs and lows, true or predicted.
    tau : float
        At least 0, in the unit of the slopes; see `slope_threshold`.

    Returns
    -------
    ndarray of str, shape (n,)
        ``"up"`` where both slopes are above tau, ``"down"`` where both are below -tau, else
        ``"sideways"``.

    Raises
    ------
    EnsembleKitError
        If there are no slopes, not two columns, values that are not finite, or no such tau.

    Examples
    --------
    >>> from ensemble_kit.metrics.waves import direction_of
    >>> direction_of([[0.3, 0.4], [-0.3, -0.4], [0.3, -0.4], [0.1, 0.4]], tau=0.2).tolist()
    ['up', 'down', 'sideways', 'sideways']
    """
    if not isinstance(tau, Real) or not 0 <= tau < np.inf:
        raise EnsembleKitError(f"`tau` must be a finite number of at least 0; got {tau!r}. Take `slope_threshold`.")
    values = _slopes(slopes, "slopes")
    up, down = (values > tau).all(axis=1), (values < -tau).all(axis=1)
    return np.where(up, "up", np.where(down, "down", "sideways"))


def up_down_ratio(y_pred: Any, *, sample_weight: Any = None) -> float:
    """Return how many waves are predicted up for one predicted down.

    Parameters
    ----------
    y_pred : array-like of str, shape (n,)
        Directions, as `direction_of` names them.
    sample_weight : array-like of shape (n,), default=None
        Rows of weight 0 do not count.

    Returns
    -------
    float
        NaN where nothing is predicted down. It says nothing of right or wrong: compare with
        the ratio of what came true.

    Raises
    ------
    EnsembleKitError
        If there are other labels, or weights that do not fit.
    """
    predicted, weights = _directions(y_pred, "y_pred"), check_row_weights(sample_weight, len(y_pred))
    return _ratio(weights[predicted == "up"], weights[predicted == "down"])


def loss_rate(y_true: Any, y_pred: Any, *, sample_weight: Any = None) -> float:
    """Return the percentage of predicted ups and downs that went the other way.

    Parameters
    ----------
    y_true, y_pred : array-like of str, shape (n,)
        Directions, as `direction_of` names them.
    sample_weight : array-like of shape (n,), default=None
        Rows of weight 0 do not count.

    Returns
    -------
    float
        Mean of the share of downs among predicted ups and of ups among predicted downs, from
        0 to 100. NaN where nothing is predicted up, or nothing down.

    Raises
    ------
    EnsembleKitError
        If there are other labels, or rows or weights that do not fit.

    Examples
    --------
    >>> from ensemble_kit.metrics.waves import loss_rate
    >>> loss_rate(["up", "down", "down", "sideways"], ["up", "up", "down", "down"])
    25.0
    """
    true, predicted, weights = _compared(y_true, y_pred, sample_weight)
    up, down = predicted == "up", predicted == "down"
    wrong_up = _ratio(weights[up & (true == "down")], weights[up])
    wrong_down = _ratio(weights[down & (true == "up")], weights[down])
    return 50 * (wrong_up + wrong_down)


def sideways_precision(y_true: Any, y_pred: Any, *, sample_weight: Any = None) -> float:
    """Return the share of predicted sideways waves that were.

    Parameters
    ----------
    y_true, y_pred : array-like of str, shape (n,)
        Directions, as `direction_of` names them.
    sample_weight : array-like of shape (n,), default=None
        Rows of weight 0 do not count.

    Returns
    -------
    float
        From 0 to 1, NaN where nothing is predicted sideways. A forecast that is always
        sideways has the share of sideways waves.

    Raises
    ------
    EnsembleKitError
        If there are other labels, or rows or weights that do not fit.
    """
    true, predicted, weights = _compared(y_true, y_pred, sample_weight)
    sideways = predicted == "sideways"
    return _ratio(weights[sideways & (true == "sideways")], weights[sideways])


def wave_scores(y_true: Any, y_pred: Any, *, y_train: Any, last_slopes: Any, sample_weight: Any = None) -> pd.DataFrame:
    """Score forecasts of the next wave's slopes, with their base rates in the rows below.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n, 2)
        True and predicted slopes of highs and lows, in ATR a bar. Of DataFrames, here and below,
        the columns ``slope_high`` and ``slope_low`` count, and those of the n waves must
        have one index; arrays go by position.
    y_train : array-like of shape (m, 2)
        Targets of the training waves: they give tau (`slope_threshold`) and the constant
        forecast. Leave waves of weight 0 out.
    last_slopes : array-like of shape (n, 2)
        The slopes of the waves that the forecasts start from, in ATR a bar: `wave_features`,
        or its columns ``slope_high`` and ``slope_low``.
    sample_weight : array-like of shape (n,), default=None
        Rows of weight 0 do not count.

    Returns
    -------
    DataFrame of shape (4, 8)
        Rows:

        - ``model``: the forecasts;
        - ``persistence``: the next wave has the slopes of the last one;
        - ``constant``: the training waves' mean slopes, and their most frequent direction;
        - ``actual``: what came true, as if foreseen: its ratio and its share of sideways
          waves are those to compare with.

        Columns: ``up_down_ratio``, ``loss_rate`` in %, ``sideways_precision``,
        ``sideways_share`` of the forecasts, and of the slopes, as means over both, ``mse``,
        ``mae``, ``r2`` and ``directional_accuracy``, the share whose sign is right.

    Raises
    ------
    EnsembleKitError
        If shapes or weights do not fit, values are not finite, or frames are of different
        waves or lack the columns.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.metrics.waves import wave_scores
    >>> from ensemble_kit.waves import extract_waves, wave_features, wave_targets
    >>> bars = make_bars(5000, random_state=0)
    >>> waves = extract_waves(bars)
    >>> X, y = wave_targets(waves).align(wave_features(bars, waves))
    >>> last = X[["slope_high", "slope_low"]]
    >>> scores = wave_scores(y[150:], 0.1 * last[150:], y_train=y[:149], last_slopes=last[150:])
    >>> scores[["sideways_precision", "sideways_share", "r2"]].round(2)
                 sideways_precision  sideways_share    r2
    model                      0.67            0.99 -0.02
    persistence                0.67            0.66 -1.09
    constant                   0.66            1.00 -0.01
    actual                     1.00            0.66  1.00
    """
    _check_same_waves({"y_true": y_true, "y_pred": y_pred, "last_slopes": last_slopes})
    true, train = _slopes(_by_name(y_true, "y_true"), "y_true"), _slopes(_by_name(y_train, "y_train"), "y_train")
    weights = check_row_weights(sample_weight, len(true))
    tau = slope_threshold(train)
    names, counts = np.unique(direction_of(train, tau=tau), return_counts=True)
    forecasts = {
        "model": _slopes(_by_name(y_pred, "y_pred"), "y_pred", len(true)),
        "persistence": _slopes(_by_name(last_slopes, "last_slopes"), "last_slopes", len(true)),
        "constant": np.tile(train.mean(axis=0), (len(true), 1)),
        "actual": true,
    }
    directions = {name: direction_of(slopes, tau=tau) for name, slopes in forecasts.items()}
    directions["constant"] = np.full(len(true), names[np.argmax(counts)])
    rows = {
        name: _direction_scores(directions["actual"], directions[name], weights) | _slope_scores(true, slopes, weights)
        for name, slopes in forecasts.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def _direction_scores(true: NDArray[np.str_], predicted: NDArray[np.str_], weights: FloatArray) -> dict[str, float]:
    return {
        "up_down_ratio": up_down_ratio(predicted, sample_weight=weights),
        "loss_rate": loss_rate(true, predicted, sample_weight=weights),
        "sideways_precision": sideways_precision(true, predicted, sample_weight=weights),
        "sideways_share": _ratio(weights[predicted == "sideways"], weights),
    }


def _slope_scores(true: FloatArray, predicted: FloatArray, weights: FloatArray) -> dict[str, float]:
    signs = np.sign(true).ravel(), np.sign(predicted).ravel()
    return {
        "mse": float(mean_squared_error(true, predicted, sample_weight=weights)),
        "mae": float(mean_absolute_error(true, predicted, sample_weight=weights)),
        "r2": float(r2_score(true, predicted, sample_weight=weights)),
        "directional_accuracy": float(accuracy_score(*signs, sample_weight=weights.repeat(2))),
    }


def _ratio(part: FloatArray, whole: FloatArray) -> float:
    total = whole.sum()
    return float(part.sum() / total) if total > 0 else float("nan")


def _check_same_waves(tables: dict[str, Any]) -> None:
    """Refuse frames that are of other waves than the first of them."""
    frames = {name: table for name, table in tables.items() if isinstance(table, pd.DataFrame)}
    first = next(iter(frames), "")
    for name, frame in frames.items():
        if not frame.index.equals(frames[first].index):
            raise EnsembleKitError(
                f"`{name}` must have the index of `{first}` ({len(frames[first])} waves); got another one of "
                f"{len(frame)}. Align both with `labels.align(X)`, and take the same rows."
            )


def _by_name(values: Any, name: str) -> Any:
    """Return the columns of slopes of a frame, and anything else as it is."""
    if not isinstance(values, pd.DataFrame):
        return values
    if missing := [column for column in _COLUMNS if column not in values]:
        raise EnsembleKitError(
            f"`{name}` must have the columns {' and '.join(_COLUMNS)}; got {', '.join(map(str, values.columns))}, "
            f"without {', '.join(missing)}. Name them, or pass an array of slopes of highs and lows."
        )
    return values[list(_COLUMNS)]


def _slopes(values: Any, name: str, n: int | None = None) -> FloatArray:
    slopes = np.asarray(values, dtype=np.float64)
    rows = "n" if n is None else n
    if slopes.ndim != 2 or slopes.shape[1] != 2 or len(slopes) != (len(slopes) or 1 if n is None else n):
        raise EnsembleKitError(
            f"`{name}` must have shape ({rows}, 2), a row a wave, its slopes of highs and lows; got {slopes.shape}. "
            "Align it with `labels.align(X)`."
        )
    if not np.isfinite(slopes).all():
        row = int(np.argmin(np.isfinite(slopes).all(axis=1)))
        raise EnsembleKitError(
            f"`{name}` must be finite; got {slopes[row].tolist()} at row {row}. Leave out what is not known yet."
        )
    return slopes


def _directions(values: Any, name: str) -> NDArray[np.str_]:
    directions = np.asarray(values)
    unknown = sorted(set(directions.tolist()) - set(_DIRECTIONS), key=str) if directions.ndim == 1 else ["a table"]
    if unknown:
        raise EnsembleKitError(
            f"`{name}` must hold directions, {', '.join(_DIRECTIONS)}; got {', '.join(map(str, unknown))}. "
            "Make them of slopes with `direction_of`."
        )
    return directions.astype(str)


def _compared(y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[NDArray[np.str_], NDArray[np.str_], FloatArray]:
    true, predicted = _directions(y_true, "y_true"), _directions(y_pred, "y_pred")
    if len(true) != len(predicted):
        raise EnsembleKitError(
            f"`y_pred` must have the {len(true)} rows of `y_true`; got {len(predicted)}. Score the rows predicted."
        )
    return true, predicted, check_row_weights(sample_weight, len(true))
