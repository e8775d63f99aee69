"""The decision rule applied: roles, reasons, confidence, and the card's sentences."""
