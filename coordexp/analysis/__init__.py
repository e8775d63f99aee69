"""From finished runs to a decision: audit, plateau, statistics, comparison, recommendation. No torch in here."""
