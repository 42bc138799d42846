"""The pool operators."""
