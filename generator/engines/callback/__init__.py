"""A generator that answers later, by a signed webhook, as an engine."""
