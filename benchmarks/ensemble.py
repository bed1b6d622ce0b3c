"""The four-member ensemble on four real series, beside what anyone has for free, and against its best member.

    python benchmarks/ensemble.py --memory FOLDER      # some ten minutes of one core; resumes if killed
    python benchmarks/ensemble.py --quick              # SPY and gold, 5,000 bars, tiny members
    python benchmarks/ensemble.py --choose networks    # how the members' settings were chosen; or trees

Bars -> Alpha158, session and rule columns -> LSTM-GRU, LuTransformer, Informer and LightGBM, each behind
a selector of its own -> three walk-forward folds -> temperature -> votes. SPY and AAPL 5-minute as long
as the files are, the newest 40,000 of BTC's 5-minute bars, the newest two years of gold's hours. Labels
are Peak / Slope / Bottom (w = 36), folds and holdout purged by their t1. The newest fifth of each series
is the holdout: nothing is fitted, stopped, calibrated, weighed or chosen on it. Settings were chosen on
SPY's training rows out of fold (`members` says how); the best member is the one that scored most out
of fold, series by series.

Beside each AUC-PR on the holdout stand the same model's on two kinds of redrawn holdouts, mean of
several draws, features and labels made anew: `shuffled` (`surrogate_bars`: bars change places within
their time of day) and `walk` (`random_walk_bars`: each bar turned upside down or not by a coin). There
is nothing to know in either, and `walk` is the fairer: it keeps the clusters of volatility. Events
weigh as much there as on the holdout. `rule` is `causal_rule`.

Pooled differences are means over the series of what `compare_scores` finds in each, draw by draw:
every draw resamples each series' own blocks, and the mean of the four differences is one draw. Rows
of all series in one list would instead be ranked against each other, so that the series with the
most events would decide, and members would be scored by how their levels compare across series.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from sklearn.impute import SimpleImputer
from sklearn.metrics import average_precision_score
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import RobustScaler

from ensemble_kit.bars import row_keys
from ensemble_kit.datasets import read_bars
from ensemble_kit.ensemble import WalkForwardVotingClassifier
from ensemble_kit.ensemble.judgement import vote
from ensemble_kit.estimators import (
    InformerClassifier,
    LGBMWindowClassifier,
    LSTMGRUClassifier,
    LuTransformerClassifier,
)
from ensemble_kit.features import (
    Alpha158,
    ICTFeatures,
    RelevanceRedundancySelector,
    SessionFeatures,
)
from ensemble_kit.labels import Labels, peak_slope_bottom
from ensemble_kit.metrics import (
    auc_pr,
    brier_skill,
    calibration_slope,
    causal_rule,
    compare_scores,
    random_walk_bars,
    surrogate_bars,
    turn_rule,
)
from ensemble_kit.validation import WalkForwardSplit, lookback, predict_on_rows

EVENTS = ["peak", "bottom"]
W = 36
PRICES = ["open", "high", "low", "close", "volume"]


class Source(NamedTuple):
    """A series: its file, whose clock it follows, and how much of it is taken."""

    file: str
    session: str
    newest: str | int  # elapsed time, or bars


SERIES = {
    "SPY": Source("spy_5min_2022_2023.parquet", "XNYS", "730D"),
    "AAPL": Source("aapl_5min_2022_2023.parquet", "XNYS", "730D"),
    "BTC": Source("btcusdt_5min_2023.parquet", "day", 40_000),
    "gold": Source("xauusd_1h_2006_2015.parquet", "day", "730D"),
}


class Size(NamedTuple):
    """How much of everything."""

    bars: int | None  # the newest of a series, None for all
    seq_len: int
    width: int
    epochs: int
    rounds: int


FULL, QUICK = Size(None, 48, 32, 8, 200), Size(5000, 16, 8, 2, 40)


# --------------------------------------------------------------------------------------- members


def member(model: Any, k: int) -> Any:
    """Return a model behind its own selector and scaler."""
    median = SimpleImputer(strategy="median", keep_empty_features=True)
    return make_pipeline(RelevanceRedundancySelector(k=k), median, RobustScaler(), model)


def network(kind: Any, size: Size, k: int = 80, **parameters: Any) -> Any:
    """Return a network behind its own selector and scaler."""
    shared = {
        "max_epochs": size.epochs,
        "batch_size": 128,
        "learning_rate": 3e-3,
        "validation_fraction": 0.15,
        "validation_purge": W,
        "device": "cpu",
        "random_state": 0,
    }
    width = "hidden_size" if kind is LSTMGRUClassifier else "d_model"
    return member(kind(size.seq_len, **{width: size.width} | shared | parameters), k)


def trees(size: Size, k: int = 80, seq_len: int = 1, **parameters: Any) -> Any:
    """Return boosted trees behind their own selector, by default on the last row."""
    shared = {"n_estimators": size.rounds, "validation_fraction": 0.15, "validation_purge": W, "random_state": 0}
    return make_pipeline(RelevanceRedundancySelector(k=k), LGBMWindowClassifier(seq_len, **shared | parameters))


def members(size: Size) -> list[tuple[str, Any]]:
    """Return the four members, with the settings that `--choose` showed to score most out of fold on SPY.

    Mean AUC-PR of Peak and Bottom on SPY's training rows, where the causal rule scores 0.08:

    - Trees on the last row 0.16, on blocks of 48 rows 0.13, of all columns instead of 80 0.15, slower and
      smaller 0.17, with ICT columns 0.18, with the rule's two columns instead 0.19 (40 columns).
    - Networks without the rule 0.04 to 0.10, with it 0.13 to 0.14; LSTM-GRU 0.08 in three layers and
      batches of 256, 0.12 in two and 64, 0.15 in one and 128. Rare classes weighted five times: 0.14.

    Votes hardly differ out of fold: powers of the score from 0 to 16, a mean of probabilities or of
    their logs, a temperature on the vote.
    """
    short = size._replace(seq_len=size.seq_len // 2)
    return [
        ("lstm_gru", network(LSTMGRUClassifier, short, n_layers=1)),
        ("lu_transformer", network(LuTransformerClassifier, size)),
        ("informer", network(InformerClassifier, short, n_layers=1, batch_size=256)),
        ("lightgbm", trees(size, 40, learning_rate=0.02, num_leaves=7, min_child_samples=50)),
    ]


# ------------------------------------------------------------------------------------------ data


def load(name: str, data: Path, size: Size) -> pd.DataFrame:
    """Return the newest bars of a series."""
    source = SERIES[name]
    bars = read_bars(data / source.file)[PRICES]
    newest = source.newest if size.bars is None else size.bars
    if isinstance(newest, int):
        return bars.iloc[-newest:]
    return bars[bars.index > bars.index[-1] - pd.Timedelta(newest)]


def columns(bars: pd.DataFrame, session: str, first: int = 0, *, rule: bool = True, more: Any = ()) -> pd.DataFrame:
    """Return the columns of the bars from `first` on; row t sees rows up to t.

    The label's causal half is among them, two columns that know all bars (their ATR remembers): trees
    put it together themselves, networks hardly do from a few thousand bars.
    """
    union = make_union(Alpha158(), SessionFeatures(session), *more)
    X = union.set_output(transform="pandas").fit_transform(bars.iloc[first:])
    return X.join(turn_rule(bars, w=W)) if rule else X


def split(bars: pd.DataFrame, labels: Labels) -> tuple[np.ndarray, np.ndarray]:
    """Return training rows, known before the holdout begins, and the holdout: the newest fifth."""
    return next(WalkForwardSplit(1, t1=labels.t1, test_size=0.2).split(bars))


def new_ensemble(estimators: list[tuple[str, Any]], labels: Labels, memory: Path | None, **parameters: Any) -> Any:
    """Return an unfitted ensemble."""
    cv = WalkForwardSplit(3, t1=labels.t1)
    return WalkForwardVotingClassifier(estimators, cv=cv, events=EVENTS, memory=memory, **parameters)


# ----------------------------------------------------------------------------------- one series


@dataclass
class Judged:
    """What all voters say of one series' holdout, and what came true."""

    name: str
    n_bars: int
    first: pd.Timestamp
    truth: pd.Series
    classes: np.ndarray
    prior: np.ndarray  # class shares of the training rows
    out_of_fold: pd.Series  # score by voter
    weights: pd.Series
    before: dict[str, np.ndarray]  # probabilities (n, K) by voter, of members as they are
    after: dict[str, np.ndarray]  # and with their temperatures
    rule: pd.DataFrame
    nulls: dict[str, pd.DataFrame]  # by null: AUC-PR by voter (and rule) and event, mean of the draws
    correlation: float  # mean rank correlation of two members' out-of-fold probabilities
    seconds: float

    @property
    def members(self) -> list[str]:
        """The members' names."""
        return list(self.weights.index)

    @property
    def best(self) -> str:
        """The member that scored most out of fold."""
        return str(self.out_of_fold[self.members].idxmax())

    def hits(self, event: str) -> np.ndarray:
        """Where an event came true."""
        return (self.truth == event).to_numpy()


def votes(ensemble: Any, weights: np.ndarray, calibrators: list[Any], raw: np.ndarray) -> dict[str, np.ndarray]:
    """Return probabilities (n, K) of each member, of the uniform vote and of the weighted one."""
    one = np.eye(len(raw))
    names = [name for name, _ in ensemble.estimators]
    by_voter = dict(zip(names, one, strict=True)) | {"uniform vote": np.full(len(raw), 1 / len(raw))}
    said = {name: vote(w[:, None], calibrators, raw)[:, 0] for name, w in by_voter.items()}
    return said | {"weighted vote": vote(weights, calibrators, raw)[:, 0]}


def ask(ensemble: Any, X: pd.DataFrame, rows: np.ndarray) -> np.ndarray:
    """Return the members' log-probabilities (M, n, 1, K) of some rows, with the history they need."""
    keys = row_keys(X)
    return np.stack([predict_on_rows(m, X, rows, keys, ensemble.classes_) for m in ensemble.estimators_])


def scores(truth: pd.Series, said: dict[str, pd.DataFrame], share: pd.Series | None = None) -> pd.DataFrame:
    """Return the AUC-PR by voter and event; `share` gives events the weight they have elsewhere."""
    table = {}
    for event in EVENTS:
        hit = (truth == event).to_numpy()
        weight = np.ones(len(hit))
        if share is not None and hit.any():
            weight[hit] = share[event] / (1 - share[event]) * (1 - hit.mean()) / hit.mean()
        table[event] = {
            name: average_precision_score(hit, p[event], sample_weight=weight) if hit.any() else np.nan
            for name, p in said.items()
        }
    return pd.DataFrame(table)


def judge_series(name: str, data: Path, size: Size, memory: Path | None, draws: int) -> Judged:
    """Fit the ensemble on the first four fifths of a series and ask it about the last."""
    warnings.simplefilter("ignore")  # of folds without an event, and columns that are nowhere known
    started = time.process_time()
    bars, session = load(name, data, size), SERIES[name].session
    labels = peak_slope_bottom(bars, w=W)
    train, held = split(bars, labels)
    X = columns(bars, session)
    y, weight = labels.labels.iloc[train], labels.sample_weight.iloc[train]
    ensemble = new_ensemble(members(size), labels, memory).fit(X.iloc[train], y, sample_weight=weight)
    classes, names, weights = ensemble.classes_, list(ensemble.weights_.index), ensemble.weights_.to_numpy()

    # The holdout's columns need not be made of all bars, but of those that they and windows look at.
    first = max(held[0] - lookback(Alpha158()) - lookback(ensemble), 0)

    def asked(bars: pd.DataFrame) -> tuple[pd.Series, np.ndarray, pd.DataFrame]:
        """Return what came true, what members say and the rule's scores, of the holdout's known rows."""
        labels = peak_slope_bottom(bars, w=W)
        rows = held[(labels.known & (labels.sample_weight.to_numpy() > 0))[held]]
        raw = ask(ensemble, columns(bars, session, first), rows - first)
        return labels.labels.iloc[rows], raw, causal_rule(bars, labels.definition).iloc[rows]

    truth, raw, rule = asked(bars)
    after = votes(ensemble, weights, ensemble.calibrators_, raw)
    share = pd.Series({event: (truth == event).mean() for event in EVENTS})
    nulls = {}
    for null, draw in (("shuffled", partial(surrogate_bars, session=session)), ("walk", random_walk_bars)):
        tables = []
        for seed in range(draws):
            # The bar before the holdout stays, and what is drawn is chained to it.
            own = slice(held[0] - 1, None)
            drawn = pd.concat([bars.iloc[: held[0] - 1], draw(bars.iloc[own], random_state=seed)])
            came, said, free = asked(drawn)
            voters = votes(ensemble, weights, ensemble.calibrators_, said)
            frames = {voter: pd.DataFrame(p, columns=classes) for voter, p in voters.items()}
            tables.append(scores(came, frames | {"causal rule": free}, share))
        nulls[null] = sum(tables) / draws

    rows, weighted = ensemble.out_of_fold()
    oof = ensemble.oof_log_proba_.to_numpy().reshape(len(rows), len(names), 1, -1).swapaxes(0, 1)
    uniform = vote(np.full(weights.shape, 1 / len(names)), ensemble.calibrators_, oof)
    score = partial(auc_pr, y.iloc[rows], classes=classes, events=EVENTS, sample_weight=weight.iloc[rows])
    corr = ensemble.member_correlation().to_numpy()
    known = y[weight > 0]
    return Judged(
        name=name,
        n_bars=len(bars),
        first=bars.index[held[0]],
        truth=truth,
        classes=classes,
        prior=np.array([(known == label).mean() for label in classes]),
        out_of_fold=pd.concat(
            [
                ensemble.scores_["H0"],
                pd.Series({"uniform vote": score(uniform)[0], "weighted vote": score(weighted)[0]}),
            ]
        ),
        weights=ensemble.weights_["H0"],
        before=votes(ensemble, weights, [None] * len(names), raw),
        after=after,
        rule=rule,
        nulls=nulls,
        correlation=float(corr[np.triu_indices(len(names), 1)].mean()),
        seconds=time.process_time() - started,
    )


# ---------------------------------------------------------------------------------------- tables


def print_series(one: Judged) -> None:
    """Print what every voter scores on one holdout."""
    frames = {voter: pd.DataFrame(p, columns=one.classes) for voter, p in one.after.items()}
    real = scores(one.truth, frames | {"causal rule": one.rule})
    n = {event: int(one.hits(event).sum()) for event in EVENTS}
    print(
        f"\n{one.name}: {one.n_bars:,} bars; holdout of {len(one.truth):,} from {one.first:%Y-%m-%d %H:%M}, "
        f"{n['peak']} peaks, {n['bottom']} bottoms; members' mean rank correlation {one.correlation:.2f}; "
        f"{one.seconds:,.0f} CPU seconds"
    )
    print(
        f"{'':15} {'out of fold':^13}  {'peak: AUC-PR':^23}  {'bottom: AUC-PR':^23}  {'Brier':>7}  "
        f"{'slope, peak':^14}  {'slope, bottom':^14}"
    )
    print(
        f"{'':15} {'score':>6} {'weight':>6}  "
        + f"{'holdout':>7} {'shuffled':>8} {'walk':>6}  " * 2
        + f"{'skill':>7}  "
        + f"{'before':>6} {'after':>7}  " * 2
    )
    shares = "  ".join(f"{one.hits(event).mean():7.3f} {'':8} {'':6}" for event in EVENTS)
    print(f"{'prevalence':15} {'':6} {'':6}  {shares}")
    for voter in ["causal rule", *one.after]:
        found = "  ".join(
            f"{real.loc[voter, event]:7.3f} {one.nulls['shuffled'].loc[voter, event]:8.3f} "
            f"{one.nulls['walk'].loc[voter, event]:6.3f}"
            for event in EVENTS
        )
        if voter not in one.after:
            print(f"{voter:15} {'':6} {'':6}  {found}")
            continue
        weight = f"{one.weights[voter]:6.2f}" if voter in one.weights else f"{'':6}"
        skill = brier_skill(one.truth, one.after[voter], one.prior, classes=one.classes)[0]
        slopes = "  ".join(
            " ".join(
                f"{calibration_slope(one.truth, said[voter], classes=one.classes, event=event)[0]:{width}.2f}"
                for said, width in ((one.before, 6), (one.after, 7))
            )
            for event in EVENTS
        )
        mark = "*" if voter == one.best else ""
        print(f"{voter + mark:15} {one.out_of_fold[voter]:6.3f} {weight}  {found}  {skill:+7.3f}  {slopes}", flush=True)


class Difference(NamedTuple):
    """A mean difference over series, with its interval, and how many series it is above 0 in."""

    mean: float
    low: float
    high: float
    above: int

    def __str__(self) -> str:
        return f"{self.mean:+.4f}  [{self.low:+.4f}, {self.high:+.4f}]"


def pooled(judged: list[Judged], a: Any, b: Any, *, scorer: str, events: Any, n_resamples: int) -> Difference:
    """Average the differences of two voters over series, draw by draw.

    `a` and `b` take a `Judged` and return probabilities.
    """
    differences, draws = [], []
    for one in judged:
        n = len(one.truth)
        labels = pd.Index(one.classes)
        compare = partial(
            compare_scores,
            labels.get_indexer(one.truth),
            np.asarray(a(one)),
            np.asarray(b(one)),
            classes=range(len(labels)),
            events=None if events is None else labels.get_indexer(events),
            scorer=scorer,
            block=max(W, round(2 * n ** (1 / 3))),
            n_resamples=1,
        )
        rng = np.random.RandomState(0)
        # The interval of one resample is that resample's difference.
        draws.append([compare(random_state=rng)[1] for _ in range(n_resamples)])
        differences.append(compare(random_state=0)[0])
    low, high = np.nanquantile(np.mean(draws, axis=0), [0.025, 0.975])
    return Difference(float(np.mean(differences)), float(low), float(high), int((np.array(differences) > 0).sum()))


def excess(judged: list[Judged], null: str, voter: str) -> float:
    """Return the mean over series and events of a voter's AUC-PR less that on redrawn holdouts."""
    found = []
    for one in judged:
        real = scores(one.truth, {voter: pd.DataFrame(one.after[voter], columns=one.classes)})
        found.append((real - one.nulls[null]).loc[voter].mean())
    return float(np.mean(found))


def mean_slope(judged: list[Judged], when: str, voter: str) -> float:
    """Return the mean calibration slope over series and events."""
    found = [
        calibration_slope(one.truth, getattr(one, when)[voter], classes=one.classes, event=event)[0]
        for one in judged
        for event in EVENTS
    ]
    return float(np.nanmean(found))


def print_voters(name: str, values: dict[str, float], form: str) -> None:
    """Print a line of one figure a voter."""
    print(f"  {name:29} " + ", ".join(f"{voter} {value:{form}}" for voter, value in values.items()))


def print_pooled(judged: list[Judged], n_resamples: int) -> None:
    """Print the differences that the benchmark is about."""
    print(f"\nPooled over {len(judged)} series: mean difference on the holdouts, 95 % interval of {n_resamples} draws")
    others = {
        "best member (*)": lambda one: one.after[one.best],
        "uniform vote": lambda one: one.after["uniform vote"],
        "causal rule": lambda one: one.rule.reindex(columns=one.classes, fill_value=0.0),
        "training shares": lambda one: np.broadcast_to(one.prior, one.after["weighted vote"].shape),
    }
    for scorer, events, named in (
        ("auc_pr", EVENTS, ["best member (*)", "uniform vote", "causal rule"]),
        ("log_loss", None, ["best member (*)", "uniform vote", "training shares"]),
        ("brier", None, ["training shares"]),
    ):
        for name in named:
            how = {"scorer": scorer, "events": events, "n_resamples": n_resamples}
            found = pooled(judged, lambda one: one.after["weighted vote"], others[name], **how)
            print(
                f"  {scorer:8}  weighted vote - {name:15}  {found}   above 0 in {found.above} of {len(judged)}",
                flush=True,
            )
    for null in judged[0].nulls:
        print_voters(f"AUC-PR less that on {null}", {v: excess(judged, null, v) for v in judged[0].after}, "+.3f")
    for when in ("before", "after"):
        print_voters(f"calibration slope {when}", {v: mean_slope(judged, when, v) for v in judged[0].after}, ".2f")
    print(
        "Peak and Bottom averaged. AUC-PR: above 0 the weighted vote is better; an interval that holds 0 decides\n"
        "nothing. Losses: below 0 it is better. What a model scores no better than where there is nothing to know\n"
        "(`walk`) is what the label gives away at its bar, whoever wins the comparison."
    )


# --------------------------------------------------------------------------------------- choosing


def choose(kind: str, data: Path, size: Size, memory: Path | None) -> None:
    """Print what settings score out of fold on SPY's training rows, the one series that they are chosen on."""
    warnings.simplefilter("ignore")
    bars, session = load("SPY", data, size), SERIES["SPY"].session
    labels = peak_slope_bottom(bars, w=W)
    train, _ = split(bars, labels)
    y, weight = labels.labels.iloc[train], labels.sample_weight.iloc[train]
    slow = {"learning_rate": 0.02, "num_leaves": 7, "min_child_samples": 50}
    ict = {"rule": False, "more": (ICTFeatures(session=session),)}
    sets = {"Alpha158, session": {"rule": False}, "and ICT": ict, "and the rule": {}}
    boosted = {
        "40": trees(size, 40),
        "80": trees(size, 80),
        "all": trees(size, 250),
        "blocks of 48 bars, 40": trees(size, 40, seq_len=48),
        "slow, 40": trees(size, 40, **slow),
        "slow, 80": trees(size, 80, **slow),
    }
    lstm, lu, informer = LSTMGRUClassifier, LuTransformerClassifier, InformerClassifier
    short = size._replace(seq_len=24)
    one, rare = {"n_layers": 1}, {"class_weight": {"peak": 5.0, "bottom": 5.0}}
    longer = {"batch_size": 64, "max_epochs": 12, "schedule": "cosine"}
    networks = {
        "lu_transformer, 48 bars": network(lu, size),
        "lu_transformer, 48 bars, batches of 64": network(lu, size, batch_size=64),
        "lu_transformer, 48 bars, 12 epochs": network(lu, size, **longer),
        "lu_transformer, 24 bars": network(lu, short, segment_length=8),
        "lstm_gru, 1 layer, 24 bars": network(lstm, short, **one),
        "lstm_gru, 1 layer, 24 bars, 5x": network(lstm, short, **one | rare),
        "lstm_gru, 1 layer, 24 bars, batches of 64": network(lstm, short, **one, batch_size=64),
        "lstm_gru, 1 layer, 24 bars, 12 epochs": network(lstm, short, **one | longer),
        "lstm_gru, 1 layer, 48 bars": network(lstm, size, **one),
        "lstm_gru, 3 layers, 24 bars, batches of 256": network(lstm, short, batch_size=256),
        "lstm_gru, 2 layers, 24 bars, batches of 64": network(lstm, short, n_layers=2, batch_size=64),
        "informer, 1 layer, 24 bars": network(informer, short, **one),
        "informer, 1 layer, 24 bars, batches of 64": network(informer, short, **one, batch_size=64),
        "informer, 1 layer, 24 bars, 12 epochs": network(informer, short, **one | longer),
    }
    if kind == "trees":
        for name, how in sets.items():
            X = columns(bars, session, **how).iloc[train]
            show_candidates(f"trees on {name}", boosted, X, y, weight, labels, memory)
    else:
        X = columns(bars, session).iloc[train]
        for name in ("lu", "lstm", "informer"):
            some = {title: candidate for title, candidate in networks.items() if title.startswith(name)}
            show_candidates(name, some, X, y, weight, labels, memory)
        bare = {title: networks[title] for title in ("lu_transformer, 48 bars", "lstm_gru, 1 layer, 24 bars")}
        X = columns(bars, session, rule=False).iloc[train]
        show_candidates("without the rule", bare, X, y, weight, labels, memory)


def show_candidates(
    title: str, candidates: dict[str, Any], X: Any, y: Any, weight: Any, labels: Labels, memory: Path | None
) -> None:
    """Print candidates' scores after temperature, all folds and each."""
    # Models of the folds predict: candidates need no last fit on all rows.
    ensemble = new_ensemble(list(candidates.items()), labels, memory, refit="fold_average")
    ensemble.fit(X, y, sample_weight=weight)
    table = ensemble.scores_.set_axis(["all"], axis=1)
    for fold, scored in ensemble.fold_scores_["H0"].groupby("fold"):
        table[f"fold {fold}"] = scored.droplevel("fold")
    table["T"] = ensemble.temperatures_["H0"]
    print(f"\n{title}\n{table.round(3).to_string()}", flush=True)


def main() -> None:
    """Read the arguments, judge the series, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", nargs="+", choices=list(SERIES), default=list(SERIES))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--memory", type=Path, help="a folder where fitted members are kept and found again")
    parser.add_argument("--draws", type=int, default=5, help="redrawn holdouts of each kind")
    parser.add_argument("--jobs", type=int, default=1, help="series at a time, each in a process")
    parser.add_argument("--quick", action="store_true", help="SPY and gold, 5,000 bars, tiny members")
    parser.add_argument(
        "--choose", choices=["trees", "networks"], help="print what settings score out of fold, and stop"
    )
    args = parser.parse_args()
    size = QUICK if args.quick else FULL
    if args.choose:
        choose(args.choose, args.data, size, args.memory)
        return
    names = [name for name in args.series if not args.quick or name in ("SPY", "gold")]
    draws = 2 if args.quick else args.draws
    judged = []
    run = Parallel(args.jobs, return_as="generator")
    for one in run(delayed(judge_series)(name, args.data, size, args.memory, draws) for name in names):
        judged.append(one)
        print_series(one)
    print(
        "\n* scored most out of fold. Out-of-fold scores and AUC-PR are after temperature; shuffled and walk: means\n"
        f"of {draws} draws. Brier skill against the training shares: above 0 saves something. Slope: 1 is calibrated,\n"
        "below 1 is overconfident; `before` is without temperatures."
    )
    print_pooled(judged, 200 if args.quick else 1000)


if __name__ == "__main__":
    main()
