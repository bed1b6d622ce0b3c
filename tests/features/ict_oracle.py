"""The specification of the 48 ICT columns read plainly: slow, in real prices, lists and dictionaries.

Nothing here is shared with the package but the average true range and the sessions.
"""

import numpy as np
import pandas as pd

from ensemble_kit.atr import average_true_range
from ensemble_kit.sessions import session_times

SIDES = {"bull": 1, "bear": -1}


class PlainICT:
    def __init__(
        self, bars, *, left=5, right=5, max_zones=8, max_pools=16, max_age=390, fvg_min=0.25, ob_disp=1.0, liq_tol=0.25
    ):
        vars(self).update({name: value for name, value in locals().items() if name not in ("self", "bars")})
        self.o, self.h, self.l, self.c = (bars[name].to_numpy() for name in ("open", "high", "low", "close"))
        self.atr = average_true_range(bars)
        self.day = session_times(bars.index).day
        self.swing, self.before, self.open = {}, {}, {}  # side -> (level, bar), level, bool
        self.last = self.trend = self.run = 0
        self.bos_bar = self.choch_bar = self.level = self.strength = np.nan
        self.blocks, self.gaps, self.pools = [], [], {1: [], -1: []}
        self.sweep_bar = self.depth = np.nan
        self.index = bars.index

    def columns(self):
        return pd.DataFrame([self.bar(t) for t in range(len(self.c))], index=self.index)

    def bar(self, t):
        row = {}
        pivots = self.pivots(t)
        for side in [-self.last, self.last] if len(pivots) == 2 and self.last else pivots:
            self.take_up(side, t)
        if len(pivots) == 2 and len(self.swing) == 2 and self.last_was_none:
            self.last = 0
        self.meet_zones(t, row)
        self.breaks(t, row)
        self.gap(t, row)
        self.liquidity(t, pivots, row)
        self.describe(t, row)
        return row

    def pivots(self, t):
        s = t - self.right
        self.last_was_none = self.last == 0
        if s < self.left:
            return []
        before, after = slice(s - self.left, s), slice(s + 1, t + 1)
        high = (self.h[before] < self.h[s]).all() and (self.h[after] <= self.h[s]).all()
        low = (self.l[before] > self.l[s]).all() and (self.l[after] >= self.l[s]).all()
        return [1] * bool(high) + [-1] * bool(low)

    def take_up(self, side, t):
        s = t - self.right
        level = (self.h if side > 0 else self.l)[s]
        if self.last == side and (level - self.swing[side][0]) * side <= 0:
            return
        if self.last != side:
            self.before[side] = self.swing.get(side, (np.nan,))[0]
        self.swing[side], self.open[side], self.last = (level, s), True, side

    def meet_zones(self, t, row):
        touched, row["ob_break"], row["fvg_invert"] = set(), 0, 0
        for zone in list(self.blocks):
            side, low, high = zone["side"], zone["low"], zone["high"]
            if t - zone["born"] > self.max_age:
                self.blocks.remove(zone)
                continue
            if not zone["touched"] and (self.l[t] <= high if side > 0 else self.h[t] >= low):
                zone["touched"] = True
                touched.add(side)
            if self.c[t] < low if side > 0 else self.c[t] > high:
                row["ob_break"] = -side
                self.blocks.remove(zone)
        row["ob_touch"] = sum(touched)
        for zone in list(self.gaps):
            side, low, high = zone["side"], zone["low"], zone["high"]
            share = (high - self.l[t]) / (high - low) if side > 0 else (self.h[t] - low) / (high - low)
            zone["value"] = max(zone["value"], share)
            if t - zone["born"] > self.max_age:
                self.gaps.remove(zone)
            elif self.l[t] <= low if side > 0 else self.h[t] >= high:
                self.gaps.remove(zone)
                if self.c[t] < low if side > 0 else self.c[t] > high:
                    row["fvg_invert"] = -side

    def breaks(self, t, row):
        row["ms_bos"] = row["ms_choch"] = 0
        for side in (1, -1):
            if not self.open.get(side) or (self.c[t] - self.swing[side][0]) * side <= 0:
                continue
            self.open[side] = False
            turned = self.trend == -side
            row["ms_choch" if turned else "ms_bos"] = side
            self.run = 0 if turned else self.run + side
            self.bos_bar, self.choch_bar = (self.bos_bar, t) if turned else (t, self.choch_bar)
            self.trend, self.level = side, self.swing[side][0]
            self.strength = (self.c[t] - self.level) / self.atr[t]
            self.block(t, side)

    def block(self, t, side):
        leg = range(self.swing[side][1], t + 1)
        reach = self.l if side > 0 else -self.h
        extreme = max(b for b in leg if reach[b] == min(reach[leg]))
        against = [b for b in range(max(extreme - self.left, 0), extreme + 1) if (self.c[b] - self.o[b]) * side < 0]
        if not against:
            return
        low, high = self.l[against[-1]], self.h[against[-1]]
        moved = self.c[t] - high if side > 0 else low - self.c[t]
        if moved >= self.ob_disp * self.atr[t]:
            self.add(self.blocks, side=side, low=low, high=high, born=t, value=moved / self.atr[t], touched=False)

    def add(self, zones, **zone):
        zones.append(zone)
        mine = [z for z in zones if z["side"] == zone["side"]]
        if len(mine) > self.max_zones:
            zones.remove(mine[0])

    def gap(self, t, row):
        row["fvg_size"] = 0.0 if self.atr[t] > 0 else np.nan
        if t >= 2 and self.day[t] == self.day[t - 1] == self.day[t - 2]:
            for side, low, high in ((1, self.h[t - 2], self.l[t]), (-1, self.h[t], self.l[t - 2])):
                if high > low and high - low >= self.fvg_min * self.atr[t]:
                    row["fvg_size"] = side * (high - low) / self.atr[t]
                    self.add(self.gaps, side=side, low=low, high=high, born=t, value=0.0)
        row["fvg_event"] = np.sign(row["fvg_size"])

    def liquidity(self, t, pivots, row):
        wicks = {}
        for side, pools in self.pools.items():
            outer = self.h[t] if side > 0 else self.l[t]
            for pool in list(pools):
                if (outer - pool["level"]) * side > 0:
                    pools.remove(pool)
                    if (self.c[t] - pool["level"]) * side <= 0:
                        wicks[side] = max(wicks.get(side, 0), abs(outer - pool["level"]))
        row["liq_sweep"] = -sum(wicks)
        if wicks:
            self.sweep_bar = t
            self.depth = -sum(side * wick for side, wick in wicks.items()) / self.atr[t]
        for side in pivots:
            level, pools = (self.h if side > 0 else self.l)[t - self.right], self.pools[side]
            near = [pool for pool in pools if abs(pool["level"] - level) <= self.liq_tol * self.atr[t]]
            if near:
                pool = min(near, key=lambda pool: abs(pool["level"] - level))
                pool["n"] += 1
                pool["level"] = max(pool["level"] * side, level * side) * side
            else:
                pools.append({"level": level, "n": 1})
                del pools[: -self.max_pools]

    def describe(self, t, row):
        c, a, nan = self.c[t], self.atr[t], np.nan
        (high, high_bar), (low, low_bar) = (self.swing.get(side, (nan, nan)) for side in (1, -1))
        row |= {"sw_high_dist": (c - high) / a, "sw_low_dist": (c - low) / a}
        row |= {"sw_high_age": t - high_bar, "sw_low_age": t - low_bar, "sw_leg": -self.last or nan}
        row |= {"sw_leg_atr": (high - low) / a, "sw_pos": np.clip((c - low) / (high - low), -1, 2)}
        row["sw_seq"] = np.sign(high - self.before.get(1, nan)) + np.sign(low - self.before.get(-1, nan))
        row |= {"ms_trend": self.trend or nan, "ms_bos_age": t - self.bos_bar, "ms_choch_age": t - self.choch_bar}
        row |= {"ms_run": self.run, "ms_level_dist": (c - self.level) / a, "ms_strength": self.strength}
        row["ms_flip_dist"] = {1: c - low, -1: c - high, 0: nan}[self.trend] / a
        for kind, zones, value in (("ob", self.blocks, "str"), ("fvg", self.gaps, "fill")):
            for name, side in SIDES.items():
                mine = [z for z in reversed(zones) if z["side"] == side]  # the youngest of equals
                away = [c - z["high"] if side > 0 else z["low"] - c for z in mine]
                best = mine[int(np.argmin(away))] if mine else {"born": nan, "value": nan}
                row[f"{kind}_{name}_dist"] = min(away, default=nan) / a
                row |= {f"{kind}_{name}_age": t - best["born"], f"{kind}_{name}_{value}": best["value"]}
                row[f"{kind}_{name}_n"] = len(mine)
        for name, side in (("up", 1), ("dn", -1)):
            away = [abs(pool["level"] - c) for pool in self.pools[side]]
            row[f"liq_{name}_dist"] = min(away, default=nan) / a
            row[f"liq_{name}_n"] = self.pools[side][int(np.argmin(away))]["n"] if away else nan
        row |= {"liq_sweep_age": t - self.sweep_bar, "liq_sweep_depth": self.depth}
        self.sessions(t, row)

    def sessions(self, t, row):
        days, n = np.unique(self.day[: t + 1]), self.day[: t + 1]
        if len(days) == 1:
            row |= dict.fromkeys(("pd_high_dist", "pd_low_dist", "pd_swept"), np.nan)
            return
        before, today = np.flatnonzero(n == days[-2]), np.flatnonzero(n == days[-1])
        top, bottom = self.h[before].max(), self.l[before].min()
        over, under = self.h[today].max() > top, self.l[today].min() < bottom
        row |= {"pd_high_dist": (self.c[t] - top) / self.atr[t], "pd_low_dist": (self.c[t] - bottom) / self.atr[t]}
        row["pd_swept"] = 2 if over and under else int(over) - int(under)
