"""The file as people first see it: every table, a line on each key. Its values are those of the preset `small`."""

__all__ = ["PAGE"]

PAGE = """\
# An experiment: all that decides which model `ensemble-kit train --config FILE` makes.
# A key that is left out has its default, an unknown one is refused, and the word "none" says
# that there is none. Tables of models take every parameter of theirs, not only those shown here.

name = "model"          # of the registered model and of its runs
seed = 0                # of everything random
threads = 1             # threads a member; another number gives other bits
session = "day"         # "day", an exchange ("XNYS"), or { open = "09:30", close = "16:00", tz = "America/New_York" }
holdout = 0.2           # newest bars that are never trained on: a share, a length ("30D"), a first day ("2024-05-01")

[bars]
file = "bars.parquet"   # parquet or CSV, one instrument; looked for beside this file
tz = "none"             # time zone of naive times in the file, such as "America/New_York"
size = "none"           # if given, bars of another size are refused: "5min", "1h"

[labels]
function = "peak_slope_bottom"  # or buy_sell_hold, triple_barrier, next_direction, with their parameters
horizons = 1            # bars ahead that are learned together: this bar, the next one, ...
w = 36                  # bars to each side of which a turn is the extreme
k = 2.0                 # least height of its legs, in ATR(14)

# ---------------------------------------------------------------- columns
# They look back only, and are computed once for all members.

[features.alpha158]
on = true               # 158 ratios of prices and volumes over 5 to 60 bars

[features.ict]
on = false              # swings, gaps, order blocks, liquidity
left = 5                # bars before a swing that are lower (higher)
right = 5               # bars after it, until when it is not known

[features.indicators]
on = false              # RSI, MACD, ATR and the like

[features.microstructure]
on = false              # spreads and imbalances; columns of NaN without bid and ask

[features.session]
on = true               # time of day and week, distance to the close

[selector]
on = false              # each member keeps its own columns, chosen on its training rows
k = 80                  # at most so many
redundancy = 0.95       # of two columns that correlate above this, one goes
# `train --select-features` writes `columns` here: then all members have these and choose no more.

# ---------------------------------------------------------------- members
# Each is trained alone, calibrated, and weighed by what it showed on bars that it had not seen.
# Early stopping looks at the newest `validation_fraction` of the training rows.

[members.lstm_gru]
on = true
seq_len = 48            # bars a window
hidden_size = 32        # width of the states
max_epochs = 8          # passes over the rows, at most
batch_size = 64         # windows a step
learning_rate = 0.003   # of the optimizer
validation_fraction = 0.15

[members.lightgbm]
on = true
seq_len = 1             # 1 is the newest row alone: Alpha158 looks back 60 bars itself
n_estimators = 200      # trees a class, at most
validation_fraction = 0.15

[members.lu_transformer]
on = false
seq_len = 48
d_model = 32            # width of the states, a multiple of n_heads
max_epochs = 8
batch_size = 64
learning_rate = 0.003
validation_fraction = 0.15

[members.informer]
on = false
seq_len = 48
d_model = 32
max_epochs = 8
batch_size = 64
learning_rate = 0.003
validation_fraction = 0.15

[members.transformer]
on = false
seq_len = 48
d_model = 32
max_epochs = 8
batch_size = 64
learning_rate = 0.003
validation_fraction = 0.15

[members.lstm_attention]
on = false
seq_len = 48
hidden_size = 32
max_epochs = 8
batch_size = 64
learning_rate = 0.003
validation_fraction = 0.15

[members.cnn]
on = false
seq_len = 48
n_filters = 32          # of each kernel size
max_epochs = 8
batch_size = 64
learning_rate = 0.003
validation_fraction = 0.15

[members.fusion]
on = false              # several networks in one loss
networks = ["lstm_gru", "cnn"]  # by their tables above, which need not be on
seq_len = 48
hidden_size = 32
max_epochs = 8
batch_size = 64
learning_rate = 0.003
validation_fraction = 0.15

# ---------------------------------------------------------------- judgement

[folds]
n_splits = 3            # walk-forward: train on the past, predict the next block, three times
train_size = "none"     # "none" is all of the past; a length ("180D") or a number of bars rolls
test_size = "none"      # "none" is equal blocks

[calibration]
method = "temperature"  # or "none"
bias = false            # whether each class is shifted, too

[vote]
weighting = "squared_auc_pr"    # or "uniform", or by name: { lstm_gru = 1.0, lightgbm = 2.0 }
power = 2.0             # of the score in the weights; 0 is a plain mean
events = ["peak", "bottom"]     # the classes that are scored; "none" for all
refit = "all"           # what predicts: refitted on all rows, or "fold_average"

[sizing]
method = "kelly"        # or "threshold" with threshold and size
fraction = 0.5          # share of the Kelly bet
conservatism = 1.0      # how much of the probabilities' error counts against the bet

[costs]
commission_bps = 1.0    # basis points of the traded notional
spread_bps = 0.0        # quoted spread; a fill pays half of it
slippage_bps = 0.0      # how much worse than that a fill is
borrow_rate = 0.0       # yearly, on what is sold short or borrowed
"""
