"""Where bars are fetched from: one module a provider, over its own client."""
