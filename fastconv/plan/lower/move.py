"""Lowers the move family."""
