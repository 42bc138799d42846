"""The resize operators."""
