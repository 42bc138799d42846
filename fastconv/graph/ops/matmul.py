"""The matmul operators."""
