"""Lowers the pool family."""
