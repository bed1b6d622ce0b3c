"""A trained model at work: bars come in, orders go out, and a journal holds both.

Nothing is imported here: the database, the brokers' clients and the web server are optional.
`journal`, `paper`, `alpaca`, `limits`, `trader`, `replay` and `service` are the parts.
"""
