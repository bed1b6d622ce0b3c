"""scikit-learn's displays: a picture with what it is drawn from, made of a model or of its predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.metrics import confidence_curve
from ensemble_kit.reports.beliefs import plot_beliefs
from ensemble_kit.reports.confidence import plot_confidence_curve
from ensemble_kit.reports.equity import plot_equity
from ensemble_kit.reports.reliability import plot_reliability
from ensemble_kit.sizing import backtest
from ensemble_kit.targets import stack_horizons

__all__ = ["BeliefDisplay", "ConfidenceDisplay", "EquityDisplay", "ReliabilityDisplay"]


class _Display:
    """A picture's function with its arguments, drawn as often as wanted.

    `arguments` go to the function; `ax_` and `figure_` are what was drawn last.
    """

    _draw: ClassVar[Callable[..., Axes]]

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments

    def plot(self, *, ax: Axes | None = None) -> Self:
        """Draw the picture.

        Parameters
        ----------
        ax : Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        Display
            Itself, with `ax_` and `figure_`.
        """
        self.ax_ = self._draw(**self.arguments, ax=ax)
        self.figure_ = self.ax_.figure
        return self


class _OfLabels(_Display):
    """A display of probabilities and of what came."""

    from_predictions: ClassVar[Callable[..., Any]]

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: Any, *, horizon: int = 0, ax: Axes | None = None, **options: Any
    ) -> Self:
        """Predict, and draw.

        Parameters
        ----------
        estimator : classifier
            Fitted.
        X : array-like of shape (n, n_features)
            Rows that it was not fitted on.
        y : array-like of shape (n,) or (n, H)
            What came.
        horizon : int, default=0
            Which one, of several.
        ax : Axes, default=None
            Where to draw. None makes a figure.
        **options : dict
            Others of `from_predictions`.

        Returns
        -------
        Display
            Drawn.
        """
        proba, classes = _predict(estimator, X, horizon)
        drawn: Self = cls.from_predictions(_one_horizon(y, horizon), proba, classes=classes, ax=ax, **options)
        return drawn


class ReliabilityDisplay(_OfLabels):
    """How often each class came against how often it was said to: `reports.plot_reliability`.

    Attributes
    ----------
    arguments : dict
        Those of `plot_reliability`. Use `from_estimator` or `from_predictions` to make one.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.reports import ReliabilityDisplay
    >>> p = np.linspace(0.05, 0.45, 200)
    >>> y = np.where(np.arange(200) % 4 == 0, "Peak", "Slope")
    >>> shown = ReliabilityDisplay.from_predictions(y, np.column_stack([p, 1 - p]), classes=["Peak", "Slope"])
    >>> shown.ax_.get_ylabel()
    'Observed frequency, 95 % interval'
    """

    _draw = staticmethod(plot_reliability)

    @classmethod
    def from_predictions(
        cls, y_true: Any, proba: Any, *, classes: Sequence[Any], ax: Axes | None = None, **options: Any
    ) -> Self:
        """Draw predictions.

        Parameters
        ----------
        y_true : array-like of shape (n,)
            What came, in time order.
        proba : array-like of shape (n, K)
            Probabilities of one horizon.
        classes : sequence of length K
            The classes of the columns.
        ax : Axes, default=None
            Where to draw. None makes a figure.
        **options : dict
            Others of `plot_reliability`.

        Returns
        -------
        ReliabilityDisplay
            Drawn.
        """
        return cls(proba=proba, y=y_true, classes=classes, **options).plot(ax=ax)


class ConfidenceDisplay(_OfLabels):
    """Accuracy and coverage by confidence: `reports.plot_confidence_curve` of `metrics.confidence_curve`.

    Attributes
    ----------
    arguments : dict
        `curve`, the frame drawn, and what it counts, `calls`. Use `from_estimator` or `from_predictions` to make one.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.reports import ConfidenceDisplay
    >>> p = np.linspace(0.05, 0.95, 200)
    >>> y = np.where(np.arange(200) * 7 % 200 < 200 * p, "up", "down")
    >>> shown = ConfidenceDisplay.from_predictions(y, np.column_stack([1 - p, p]), classes=["down", "up"])
    >>> bool(shown.arguments["curve"]["coverage"].is_monotonic_decreasing)
    True
    """

    _draw = staticmethod(plot_confidence_curve)

    @classmethod
    def from_predictions(
        cls, y_true: Any, proba: Any, *, classes: Sequence[Any], ax: Axes | None = None, **options: Any
    ) -> Self:
        """Draw predictions.

        Parameters
        ----------
        y_true : array-like of shape (n,)
            What came, in time order.
        proba : array-like of shape (n, K)
            Probabilities of one horizon.
        classes : sequence of length K
            The classes of the columns.
        ax : Axes, default=None
            Where to draw. None makes a figure.
        **options : dict
            Others of `metrics.confidence_curve`.

        Returns
        -------
        ConfidenceDisplay
            Drawn.
        """
        calls = "rows" if options.get("events") is None else "event calls"
        return cls(curve=confidence_curve(y_true, proba, classes=classes, **options), calls=calls).plot(ax=ax)


class BeliefDisplay(_Display):
    """Candles on what was believed at their closes: `reports.plot_beliefs`.

    Attributes
    ----------
    arguments : dict
        Those of `plot_beliefs`, which `interactive_beliefs` takes, too. Use `from_estimator` or
        `from_predictions` to make one.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.reports import BeliefDisplay
    >>> proba = np.full((100, 2), 0.5)
    >>> shown = BeliefDisplay.from_predictions(make_bars(100, random_state=0), proba, classes=["down", "up"])
    >>> shown.figure_ is shown.ax_.figure
    True
    """

    _draw = staticmethod(plot_beliefs)

    @classmethod
    def from_estimator(
        cls, estimator: Any, bars: pd.DataFrame, *, horizon: int = 0, ax: Axes | None = None, **options: Any
    ) -> Self:
        """Predict, and draw.

        Parameters
        ----------
        estimator : classifier
            Fitted; takes bars.
        bars : DataFrame of shape (n, n_columns)
            Of one instrument. Beliefs on bars that it was fitted on are no forecasts.
        horizon : int, default=0
            Which one, of several.
        ax : Axes, default=None
            Where to draw. None makes a figure.
        **options : dict
            Others of `plot_beliefs`.

        Returns
        -------
        BeliefDisplay
            Drawn.
        """
        proba, classes = _predict(estimator, bars, horizon)
        return cls.from_predictions(bars, proba, classes=classes, ax=ax, **options)

    @classmethod
    def from_predictions(
        cls, bars: pd.DataFrame, proba: Any, *, classes: Sequence[Any], ax: Axes | None = None, **options: Any
    ) -> Self:
        """Draw predictions.

        Parameters
        ----------
        bars : DataFrame of shape (n, n_columns)
            Of one instrument.
        proba : array-like of shape (n, K)
            Probabilities of one horizon.
        classes : sequence of length K
            The classes of the columns.
        ax : Axes, default=None
            Where to draw. None makes a figure.
        **options : dict
            Others of `plot_beliefs`.

        Returns
        -------
        BeliefDisplay
            Drawn.
        """
        return cls(bars=bars, proba=proba, classes=classes, **options).plot(ax=ax)


class EquityDisplay(_Display):
    """What positions would have earned: `reports.plot_equity` of `sizing.backtest`.

    Attributes
    ----------
    arguments : dict
        `result`, the backtest drawn. Use `from_estimator` or `from_predictions` to make one.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.reports import EquityDisplay
    >>> shown = EquityDisplay.from_predictions(make_bars(100, random_state=0), np.full(100, 0.5))
    >>> int(shown.arguments["result"].metrics["trades"])
    1
    """

    _draw = staticmethod(plot_equity)

    @classmethod
    def from_estimator(cls, estimator: Any, bars: pd.DataFrame, *, ax: Axes | None = None, **options: Any) -> Self:
        """Predict positions, trade them, and draw.

        Parameters
        ----------
        estimator : SizedClassifier
            Fitted.
        bars : DataFrame of shape (n, n_columns)
            All of them are traded: leave out those that it was fitted on.
        ax : Axes, default=None
            Where to draw. None makes a figure.
        **options : dict
            Others of `sizing.backtest`.

        Returns
        -------
        EquityDisplay
            Drawn.

        Raises
        ------
        EnsembleKitError
            If the estimator takes no positions.
        """
        if not hasattr(estimator, "predict_position"):
            raise EnsembleKitError(
                f"`estimator` must have `predict_position`; {type(estimator).__name__} has not. Wrap it in a "
                "`SizedClassifier`."
            )
        return cls.from_predictions(bars, estimator.predict_position(bars), ax=ax, **options)

    @classmethod
    def from_predictions(cls, bars: pd.DataFrame, position: Any, *, ax: Axes | None = None, **options: Any) -> Self:
        """Trade positions, and draw.

        Parameters
        ----------
        bars : DataFrame of shape (n, n_columns)
            Those traded.
        position : Series or array-like of shape (n,)
            Fraction of equity decided at each close.
        ax : Axes, default=None
            Where to draw. None makes a figure.
        **options : dict
            Others of `sizing.backtest`.

        Returns
        -------
        EquityDisplay
            Drawn.
        """
        return cls(result=backtest(bars, position, **options)).plot(ax=ax)


def _predict(estimator: Any, X: Any, horizon: int) -> tuple[NDArray[np.float64], list[Any]]:
    """Return the probabilities of one horizon and their classes."""
    proba = estimator.predict_proba(X)
    several = isinstance(proba, list)
    if not isinstance(horizon, int) or not 0 <= horizon < (len(proba) if several else 1):
        raise EnsembleKitError(
            f"`horizon` must be one of the {len(proba) if several else 1} that the model has; got {horizon!r}. "
            "Count from 0."
        )
    classes = estimator.classes_[horizon] if several else estimator.classes_
    return stack_horizons([proba[horizon]] if several else proba)[:, 0], list(classes)


def _one_horizon(y: Any, horizon: int) -> Any:
    if np.ndim(y) == 1:
        return y
    return y.iloc[:, horizon] if isinstance(y, pd.DataFrame) else np.asarray(y)[:, horizon]
