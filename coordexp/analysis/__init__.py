"""From finished runs to a decision: audit, comparison, recommendation. No torch."""
