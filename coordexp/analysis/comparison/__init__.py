"""How large the differences between variants are, and how far each can be trusted."""
