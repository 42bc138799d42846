"""Lowers the resize family."""
