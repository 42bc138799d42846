"""Lowers the norm family."""
