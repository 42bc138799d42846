"""Lowers the matmul family."""
