"""Lowers the reduce family."""
