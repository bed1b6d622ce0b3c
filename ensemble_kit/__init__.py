"""ensemble_kit."""
