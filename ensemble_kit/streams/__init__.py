"""A fitted model bar by bar: the newest row of what the batch says, at the cost of that row."""
