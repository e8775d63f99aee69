"""How large the differences between variants are, and how far to trust each."""
