"""A trained model at work: bars come in, orders go out, and a journal holds both."""
