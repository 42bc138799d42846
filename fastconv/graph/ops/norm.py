"""The norm operators."""
