"""Serving: finished artifacts to recommendations on request. Nothing is written to the store."""
