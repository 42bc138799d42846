"""The move operators."""
